# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""HTTP by hand, for what no client or server of a library would send."""

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from played_backend import DEADLINE

HEALTHY = [b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"]


def connect(url: str, seconds: float = DEADLINE) -> socket.socket:
    """A connection to a base URL."""
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=seconds)


def all_of(sock: socket.socket) -> bytes:
    """What comes until the other side closes or resets."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def send_all_of(sock: socket.socket, parts: Iterator[bytes]) -> int:
    """Send until there is no more, or it is not taken within a second; the bytes that were."""
    sent = 0
    sock.settimeout(1.0)
    with contextlib.suppress(OSError):
        for part in parts:
            sock.sendall(part)
            sent += len(part)
    sock.settimeout(DEADLINE)
    return sent


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) << 10


class PlayedInstance:
    """Answers each request with parts of bytes that a function of its path gives, a moment apart; then it closes."""

    def __init__(self, answer: Callable[[str], Sequence[bytes]]) -> None:
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.heads: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._socket.accept()
                threading.Thread(target=self._one, args=(sock,), daemon=True).start()

    def _one(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            asked = b""
            while not _whole(asked):  # closed with bytes unread, a connection loses what was sent
                asked += sock.recv(1 << 16)
            head = asked.partition(b"\r\n\r\n")[0]
            self.heads.append(head)
            path = head.split(b" ")[1].decode()
            for part in self._answer(path):
                sock.sendall(part)
                time.sleep(0.02)


def _whole(request: bytes) -> bool:
    head, end, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)^content-length: *(\d+)\r?$", head + b"\r\n", re.MULTILINE)
    return bool(end) and len(body) >= (int(length[1]) if length else 0)
