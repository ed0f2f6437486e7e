# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A plain request over TCP, by one connection or two (the variant): what a message lane has to be compared with.

The offsets go out, and the bytes come back by sendmsg and recvmsg straight from and to where they belong.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

import kvtransfer as kt
from kvdirect_bench.errors import BenchError
from kvdirect_bench.memory import address_of
from kvdirect_bench.native import yardsticks
from kvtransfer.doctor.network import ipv4_address

from .base import Facts, OffsetReader, Owner

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvdirect_bench.block_ids import Ids

_COUNT = struct.Struct("<Q")
_BACKLOG = 4
_POLL = 0.5


def _received(connection: socket.socket, buffer: memoryview) -> bool:
    """Fill the buffer; False where the stream ended before its first byte."""
    at = 0
    while at < len(buffer):
        got = connection.recv_into(buffer[at:])
        if got == 0:
            if at:
                raise BenchError("the other end of a socket left in the middle of a request")
            return False
        at += got
    return True


class SocketOwner(Owner):
    """Answers requests, a thread for each connection."""

    def start(self) -> Facts:
        """Listen; address and port."""
        self._send = yardsticks().socket_send
        host = ipv4_address(self.settings.listen)
        if host is None:
            raise BenchError(f"--listen {self.settings.listen}: no such device, or it has no IPv4 address")
        self._listener = socket.create_server((str(host), 0), backlog=_BACKLOG)
        self._listener.settimeout(_POLL)
        self._stopping = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()
        return {"host": str(host), "port": self._listener.getsockname()[1]}

    def close(self) -> None:
        """Let the threads end."""
        self._stopping.set()
        self._listener.close()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, contextlib.suppress(OSError):
            while not self._stopping.is_set():
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        """One request, or nothing where none came for a while."""
        connection.settimeout(_POLL)
        head = bytearray(_COUNT.size)
        try:
            if not _received(connection, memoryview(head)):
                raise OSError("the reader is gone")
        except TimeoutError:
            return
        connection.settimeout(self.settings.deadline)
        (count,) = _COUNT.unpack(head)
        if not 0 < count <= self.workload.units:
            raise OSError(f"a request for {count} units")
        offsets = np.empty(count, dtype=np.int64)
        _received(connection, offsets.data.cast("B"))
        if int(offsets.min()) < 0 or int(offsets.max()) > self.memory.nbytes - self.workload.unit_bytes:
            raise OSError("a request outside of the memory")
        unit, deadline = self.workload.unit_bytes, self.settings.deadline
        self._send(connection.fileno(), address_of(self.memory), offsets, unit, deadline)


class SocketReader(OffsetReader):
    """Asks for a share over each of its connections, and receives them side by side."""

    def start(self, invitation: Mapping[str, Any]) -> Facts:
        """Connect."""
        self._receive = yardsticks().socket_receive
        self._connections = []
        for _ in range(int(self.settings.variant)):
            address = (str(invitation["host"]), int(invitation["port"]))
            connection = socket.create_connection(address, timeout=self.settings.deadline)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections.append(connection)
        # The caller's thread takes the last share.
        self._threads = ThreadPoolExecutor(max(1, len(self._connections) - 1))
        return {"lane": "tcp", "version": kt.__version__}

    def aim(self, seed: int, offer: Mapping[str, Any]) -> None:
        """Byte offsets of every unit, a share for each connection."""
        super().aim(seed, offer)
        shares = len(self._connections)
        self._from = np.array_split(self.source_offsets, shares)
        self._to = np.array_split(self.target_offsets, shares)

    def pull(self) -> float:
        """Ask and receive."""
        jobs = list(zip(self._connections, self._from, self._to, strict=True))
        others = [self._threads.submit(self._fetch, *job) for job in jobs[:-1]]
        self._fetch(*jobs[-1])
        for other in others:
            other.result(self.settings.deadline)
        return 0.0

    def close(self) -> None:
        """Hang up."""
        for connection in self._connections:
            connection.close()
        self._threads.shutdown(wait=False)

    def _fetch(self, connection: socket.socket, source: Ids, target: Ids) -> None:
        if source.size == 0:
            return
        connection.sendall(_COUNT.pack(source.size))
        connection.sendall(source.data.cast("B"))
        unit, deadline = self.workload.unit_bytes, self.settings.deadline
        self._receive(connection.fileno(), address_of(self.memory), target, unit, deadline)


OWNER = SocketOwner
READER = SocketReader
