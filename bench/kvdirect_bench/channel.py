# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""JSON objects, one a line, between two processes; lines have a limit and every wait has a deadline."""

from __future__ import annotations

import json
import os
import select
import time
from typing import Any, TypeAlias

from .errors import BenchError

Message: TypeAlias = dict[str, Any]
# Large enough for any engine's descriptor; block ids never cross, only the seed they are made from.
LINE_LIMIT = 4 << 20
_CHUNK = 1 << 16


class ChannelClosed(BenchError):  # noqa: N818  (reads as what happened)
    """The other end is gone."""


class Channel:
    """One end of a conversation over two file descriptors, which stay the caller's."""

    def __init__(self, source: int, sink: int, other: str) -> None:
        """Read from `source`, write to `sink`; errors speak of `other`."""
        self._source = source
        self._sink = sink
        self._other = other
        self._pending = b""
        os.set_blocking(sink, False)

    def send(self, message: Message, seconds: float) -> None:
        """Send one object.

        Raises:
            ChannelClosed: Nobody reads any more.
            BenchError: It was not taken in time.
        """
        left = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        deadline = time.monotonic() + seconds
        while left:
            if not _ready(self._sink, select.POLLOUT, deadline - time.monotonic()):
                raise BenchError(f"{self._other} took no message for {seconds:.0f} s")
            try:
                left = left[os.write(self._sink, left[:_CHUNK]) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise ChannelClosed(f"{self._other} is gone: {error.strerror}") from error

    def receive(self, seconds: float) -> Message:
        """The next object.

        Raises:
            ChannelClosed: There are no more.
            BenchError: None came in time, or what came is too long or no JSON object.
        """
        deadline = time.monotonic() + seconds
        while b"\n" not in self._pending:
            if len(self._pending) > LINE_LIMIT:
                raise BenchError(f"{self._other} sent a line of more than {LINE_LIMIT} bytes")
            if not self.readable(max(0.0, deadline - time.monotonic())):
                raise BenchError(f"{self._other} did not answer within {seconds:.0f} s")
            self._read()
        line, _, self._pending = self._pending.partition(b"\n")
        return self._decoded(line)

    def readable(self, seconds: float) -> bool:
        """Whether there is something to receive, or the end, within that time."""
        return b"\n" in self._pending or _ready(self._source, select.POLLIN, seconds)

    def _read(self) -> None:
        try:
            chunk = os.read(self._source, _CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            raise ChannelClosed(f"{self._other} is gone: {error.strerror}") from error
        if not chunk:
            raise ChannelClosed(f"{self._other} is gone")
        self._pending += chunk

    def _decoded(self, line: bytes) -> Message:
        try:
            message = json.loads(line)
        except ValueError as error:
            raise BenchError(f"{self._other} sent something that is no JSON: {line[:80]!r}") from error
        if not isinstance(message, dict):
            raise BenchError(f"{self._other} sent something that is no JSON object: {line[:80]!r}")
        return message


def _ready(descriptor: int, event: int, seconds: float) -> bool:
    """Whether it can be read or written, or its other end is gone, within that time."""
    waits = select.poll()  # select() takes no descriptor above 1023
    waits.register(descriptor, event)
    return bool(waits.poll(max(0.0, seconds) * 1000))
