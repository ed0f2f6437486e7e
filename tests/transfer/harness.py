# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Starts engines in processes of their own and talks to them; every wait has a deadline."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import nursery

import kvtransfer as kt

from .layout import Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

TESTS = Path(__file__).resolve().parent.parent
DEADLINE = 60.0


class AgentError(Exception):
    """A command failed in the other process."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


def child_environment() -> dict[str, str]:
    """This process's environment, with the package under test and the tests importable."""
    package = Path(kt.__file__).resolve().parent.parent
    path = os.pathsep.join([str(package), str(TESTS), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


class Process:
    """A child that answers JSON lines; see agent.py. `inside` is a command that runs it somewhere else."""

    def __init__(
        self,
        inside: Sequence[str] = (),
        *,
        module: str = "transfer.agent",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        variables = {**child_environment(), **(environment or {})}
        self._child: nursery.Forked | subprocess.Popen[bytes]
        if inside:
            self._child = subprocess.Popen(
                [*inside, sys.executable, "-m", module],
                cwd=TESTS,
                env=variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        else:
            self._child = nursery.start(module, imports=[module], environment=variables, folder=str(TESTS))
        self._pending = b""

    @property
    def pid(self) -> int:
        return self._child.pid

    def call(self, do: str, *, deadline: float = DEADLINE, **arguments: object) -> Any:  # noqa: ANN401
        """Send one command and return its value; AgentError if it raised there."""
        self.post(do, **arguments)
        return self.answer(deadline=deadline)

    def post(self, do: str, **arguments: object) -> None:
        """Send one command; its answer must be fetched with `answer`."""
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        self._child.stdin.flush()

    def answer(self, *, deadline: float = DEADLINE) -> Any:  # noqa: ANN401
        """The answer of the oldest command that has not been fetched."""
        answer = json.loads(self._line(time.monotonic() + deadline))
        if "error" in answer:
            raise AgentError(answer["error"], answer["message"])
        return answer["value"]

    def signal(self, number: int) -> None:
        self._child.send_signal(number)

    def freeze(self) -> None:
        """SIGSTOP, and wait until none of its threads runs any more."""
        self.signal(signal.SIGSTOP)
        # After the name in brackets: the state. (proc(5))
        until(
            lambda: all(stat.rpartition(")")[2].split()[0] == "T" for stat in of_threads("stat", self.pid)),
            "it stands still",
        )

    def kill(self) -> None:
        """SIGKILL and reap."""
        self._child.kill()
        self._child.wait(DEADLINE)

    def stop(self) -> None:
        """Let it end by itself, with its engine closed at interpreter exit; kill it if it does not."""
        if self._child.poll() is not None:
            return
        self._child.send_signal(signal.SIGCONT)
        assert self._child.stdin is not None
        self._child.stdin.close()
        try:
            status = self._child.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        assert status == 0, f"the process ended with {status}"

    def _line(self, deadline: float) -> bytes:
        assert self._child.stdout is not None
        descriptor = self._child.stdout.fileno()
        ready = select.poll()  # select() takes no descriptor above 1023
        ready.register(descriptor, select.POLLIN)
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0 or not ready.poll(left * 1000):
                raise TimeoutError(f"no answer from process {self.pid}")
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                raise EOFError(f"process {self.pid} ended with {self._child.wait(DEADLINE)}")
            self._pending += chunk
        line, self._pending = self._pending.split(b"\n", 1)
        return line


@dataclass
class Remote:
    """An engine in another process."""

    process: Process
    layout: Layout
    seed: int
    descriptor: bytes
    incarnation: int

    @classmethod
    def launch(
        cls,
        *,
        name: str = "owner",
        seed: int = 1,
        layout: Layout | None = None,
        inside: Sequence[str] = (),
        share: bool = True,
        **config: object,
    ) -> Self:
        process = Process(inside)
        shape = layout or Layout()
        try:
            started = process.call("start", name=name, seed=seed, layout=shape.as_dict(), config=config, share=share)
        except BaseException:
            process.kill()
            raise
        return cls(process, shape, seed, bytes.fromhex(started["descriptor"]), started["incarnation"])

    def call(self, do: str, **arguments: object) -> Any:  # noqa: ANN401
        self.process.post(do, **arguments)
        return self.process.answer()

    def grant(self, blocks: list[int], **options: object) -> kt.LeaseRef:
        return kt.LeaseRef(*self.call("grant", tables=[blocks], **options))


def wire(lease: kt.LeaseRef) -> list[int]:
    """A lease as a command's argument."""
    return [lease.slot, lease.epoch]


def until(condition: Callable[[], bool], what: str, *, deadline: float = DEADLINE) -> None:
    """Poll until true, else fail saying what was waited for."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"waited {deadline} s in vain: {what}"
        time.sleep(0.01)


@contextlib.contextmanager
def ctrl_c_soon() -> Iterator[None]:
    """Interrupts this process in 0.3 s; what is done meanwhile takes less than 10 s, interrupted or not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    ctrl_c = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    began = time.monotonic()
    try:
        ctrl_c.start()
        yield
    finally:
        ctrl_c.cancel()
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 10


def of_threads(file: str, pid: int | str = "self") -> list[str]:
    """What this file of /proc says of each thread of a process; those that end meanwhile are left out."""
    texts = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            texts.append((task / file).read_text())
    return texts


def listening_ports(pid: int) -> list[int]:
    """TCP ports that a process listens on."""
    sockets = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # Closed since the folder was listed.
            target = entry.readlink().name
            if target.startswith("socket:["):
                sockets.add(target.removeprefix("socket:[").removesuffix("]"))
    ports = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in sockets:  # 0A: LISTEN
            ports.add(int(fields[1].split(":")[1], 16))
    return sorted(ports)
