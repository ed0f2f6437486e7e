# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""An owner's end of the handshake in a process of its own, so that what it costs can be seen from outside.

    python handshake_owner.py DESCRIPTORS [KEY PEERS]

Prints its port, answers until its input ends, and then prints what it counted. Meanwhile a line "take" has it open
all descriptors that it may have, and "give" close them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

from kvdirect.handshake.messages import Hello, Welcome
from kvdirect.handshake.server import HandshakeServer
from kvdirect.keys.tls import Keys

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

FINGERPRINT = (("protocol_version", "3"), ("model", "tiny"), ("dtype", "float32"))
HELLO = Hello("reader", FINGERPRINT)


def welcome(descriptors: int) -> Welcome:
    """An offer with so many descriptors of 1 KiB."""
    return Welcome("owner", 7, FINGERPRINT, (16,), (1,), (bytes(1024),) * descriptors)


class OwnerProcess:
    """That process, as its test sees it."""

    def __init__(
        self, descriptors: int, log: IO[str], most_files: int | None = None, keys: Sequence[Path] = ()
    ) -> None:
        """Start it, with at most `most_files` descriptors, and with keys if files are given; log lines go to `log`."""
        program = [sys.executable, __file__, str(descriptors), *map(str, keys)]
        if most_files is not None:
            program = ["prlimit", f"--nofile={most_files}:{most_files}", *program]
        self._process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def tell(self, command: str) -> None:
        """Have it do this, and wait until it has."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == command + "\n"

    def memory(self) -> int:
        """Bytes of anonymous memory."""
        return int(self._status("RssAnon")) << 10

    def open_files(self) -> int:
        """Its descriptors."""
        return len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))

    def processor_seconds(self) -> float:
        """It has used, in user mode and for system calls."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def close(self) -> dict[str, int]:
        """End it; what it counted, dropped connections by reason."""
        counted, _ = self._process.communicate(timeout=30)
        assert self._process.returncode == 0
        return dict(json.loads(counted))

    def __enter__(self) -> OwnerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def _status(self, name: str) -> str:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(line.split()[1] for line in status.splitlines() if line.startswith(name + ":"))


def main() -> None:
    """Answer."""
    logging.basicConfig(level=logging.WARNING)
    files = [Path(name) for name in sys.argv[2:]]
    server = HandshakeServer("127.0.0.1", 0, Keys(*files) if files else None)
    server.offer(welcome(int(sys.argv[1])))
    print(server.port, flush=True)
    taken: list[int] = []
    for line in sys.stdin:
        if line == "take\n":
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
        while line == "give\n" and taken:
            os.close(taken.pop())
        print(line, end="", flush=True)
    server.close()
    print(json.dumps({**server.counters, **server.dropped}))


if __name__ == "__main__":
    main()
