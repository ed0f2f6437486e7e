# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the router's keeper and one of its workers tell each other: a JSON object a line, over a pair of sockets."""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import TYPE_CHECKING, Any, Self

import msgspec

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

Message = dict[str, Any]

# Bytes of a message; that with the keys of all clients is the longest.
_MAX_LINE = 8 << 20
# Bytes that the other side has not taken yet.
_MAX_WAITING = 64 << 20
_ENCODE = msgspec.json.Encoder().encode
_DECODE = msgspec.json.Decoder(dict[str, Any]).decode

_log = logging.getLogger("kvdirect.proxy")


class ChannelError(Exception):
    """The other side has ended, or does not answer."""


class Channel:
    """One end. Messages arrive in the order in which they were sent; each names what it is by its `op`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._asked: dict[int, asyncio.Future[Message]] = {}
        self._numbers = itertools.count(1)

    @classmethod
    async def over(cls, sock: socket.socket) -> Self:
        """An end of a pair of sockets."""
        return cls(*await asyncio.open_unix_connection(sock=sock, limit=_MAX_LINE))

    def send(self, op: str, **content: object) -> None:
        """Tell the other side; it is given up where it takes nothing."""
        if self._writer.transport.get_write_buffer_size() > _MAX_WAITING:
            self.close()
        if not self._writer.is_closing():
            self._writer.write(_ENCODE({"op": op, **content}) + b"\n")

    async def ask(self, op: str, seconds: float, **content: object) -> Message:
        """Tell the other side, and wait for what it answers.

        Raises:
            ChannelError: No answer came in time.
        """
        number = next(self._numbers)
        answered: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._asked[number] = answered
        self.send(op, number=number, **content)
        try:
            async with asyncio.timeout(seconds):
                return await answered
        except TimeoutError:
            raise ChannelError(f"no answer within {seconds:g} s") from None
        finally:
            del self._asked[number]

    def answer(self, asked: Message, **content: object) -> None:
        """Answer what the other side has asked."""
        self.send("answer", number=asked["number"], **content)

    async def read(self) -> Message | None:
        """The next message, answers to our own aside; None: the other side has ended."""
        try:
            while line := await self._reader.readline():
                message: Message = _DECODE(line)
                if message["op"] != "answer":
                    return message
                asked = self._asked.get(message["number"])
                if asked is not None and not asked.done():
                    asked.set_result(message)
        except (OSError, ValueError) as error:  # a line that is too long is a ValueError too
            _log.warning("what another process of the router says cannot be read: %s", error)
        return None

    async def serve(self, on_message: Callable[[Message], object]) -> None:
        """Pass on every message until the other side has ended; then whoever waits for an answer is told."""
        while (message := await self.read()) is not None:
            on_message(message)
        self.close()

    def close(self) -> None:
        """End it."""
        self._writer.close()
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(ChannelError("the other process has ended"))
