# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A TCP relay between a reader and an owner, which can hold back, cut or record single connections."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Self

from .frames import Address
from .harness import DEADLINE, until

if TYPE_CHECKING:
    from types import TracebackType

_PIECE = 1 << 16


class Strand:
    """One relayed connection."""

    def __init__(self, reader: socket.socket, owner: socket.socket, *, record: bool = False) -> None:
        self.to_reader = 0  # bytes that went that way
        self.reader_said = bytearray()  # where it is recorded
        self.owner_said = bytearray()
        self._record = record
        self._ends = (reader, owner)
        self._owner_hears = True
        self._flip_at = -1
        self._asking = threading.Event()
        self._asking.set()
        self.ended = threading.Event()
        ways = ((reader, owner), (owner, reader))
        self._threads = [threading.Thread(target=self._forward, args=way, daemon=True) for way in ways]
        for thread in self._threads:
            thread.start()

    def flip_a_bit_after(self, count: int) -> None:
        """Of what the owner says from now on, in the byte that follows so many."""
        self._flip_at = self.to_reader + count

    def hold_back_requests(self) -> None:
        """What the reader says from now on waits for `let_requests_through`."""
        self._asking.clear()

    def let_requests_through(self) -> None:
        self._asking.set()

    def cut(self) -> None:
        """As if a cable were pulled that resets both ends."""
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut_off_reader(self) -> None:
        """Only the reader hears that it is over; the owner's end stays open."""
        self._owner_hears = False
        self._ends[0].shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._asking.set()
        self.cut()
        for thread in self._threads:
            thread.join(DEADLINE)
        for end in self._ends:
            end.close()

    def _flipped(self, data: bytes) -> bytes:
        at = self._flip_at - self.to_reader
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] if 0 <= at < len(data) else data

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_PIECE):
                if source is self._ends[0]:
                    self._asking.wait(DEADLINE)
                else:
                    data = self._flipped(data)
                    self.to_reader += len(data)
                if self._record:
                    (self.reader_said if source is self._ends[0] else self.owner_said).extend(data)
                target.sendall(data)
        if self._owner_hears:
            self.cut()
        self.ended.set()


class Relay:
    """Listens in an owner's place, on a port of its own."""

    def __init__(self, descriptor: bytes, *, record: bool = False) -> None:
        self._record = record
        self._target = Address.of(descriptor)
        self._listener = socket.create_server((self._target.host, 0))
        self.descriptor = Address.moved(descriptor, self._listener.getsockname()[1])
        self.strands: list[Strand] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(DEADLINE)
        self._listener.close()
        for strand in self.strands:
            strand.close()

    def expect(self, count: int) -> list[Strand]:
        """That many connections, in the order in which they were made, and no more."""
        until(lambda: len(self.strands) == count, f"there are {count} connections")
        return self.strands

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                reader, _ = self._listener.accept()
                owner = self._target.dial()
                owner.settimeout(None)
                self.strands.append(Strand(reader, owner, record=self._record))
