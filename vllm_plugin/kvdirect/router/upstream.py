# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The router's side towards an instance: send a request, and name exactly how it failed.

What may be done after a failure depends on how far the request got, so there is one exception for each case.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .events import EventCutter, EventsTooLongError
from .exchange import Exchange, ExchangeError
from .http_client import Client, ConnectError
from .pace import Pace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .bodies import RawHeaders
    from .config import ProxyConfig
    from .instances import Instance


class UpstreamError(Exception):
    """An instance did not answer; the message names it and what happened."""

    def __init__(self, instance: Instance, text: str) -> None:
        super().__init__(f"{instance} {text}")


class UnreachableError(UpstreamError):
    """The connection was refused or not made in time: the instance has seen nothing of the request."""


class BrokenError(UpstreamError):
    """The connection broke after the request had left, or the engine gave it up: it may have worked on it."""


class LateError(UpstreamError):
    """The next byte did not come in time; the request was cancelled there."""


class Reply:
    """An instance's answer whose first byte has come."""

    def __init__(self, instance: Instance, exchange: Exchange, config: ProxyConfig) -> None:
        self.instance = instance
        self.status = exchange.status
        self.headers: RawHeaders = exchange.headers
        self.streamed = any(
            name == b"content-type" and value.startswith(b"text/event-stream") for name, value in exchange.headers
        )
        self.first = b""
        self._exchange = exchange
        self._cutter = EventCutter(config.max_answer_bytes) if self.streamed else None
        self._idle = config.idle_timeout
        self._limit = config.max_answer_bytes

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body in parts as they come, the first one included; of an event stream, whole events.

        Raises:
            BrokenError: It ended too early.
            LateError: The next part took too long.
        """
        chunk = self.first
        while chunk:
            yield chunk
            try:
                chunk = await self.next_chunk(self._idle)
            except TimeoutError:
                self.instance.record_failure()
                raise LateError(self.instance, f"sent nothing for {self._idle} s (--idle-timeout)") from None

    async def next_chunk(self, seconds: float | None = None) -> bytes:
        """The next part, b"" at the end; raises BrokenError, and TimeoutError where nothing came in time."""
        try:
            while part := await self._exchange.part(seconds):
                if self._cutter is None:
                    return part
                if events := self._cutter.feed(part):
                    return events
        except ExchangeError as error:
            raise broken(self.instance, error) from error
        except EventsTooLongError as error:
            raise broken(self.instance, f"{error} (--max-answer-bytes)") from None
        return b"" if self._cutter is None else self._cutter.end()

    def take_turns(self, pace: Pace) -> None:
        """It is a stream that has begun: what comes of it can wait for its turn."""
        self._exchange.take_turns(pace)

    async def whole(self) -> bytes:
        """All of the body, after which the connection is let go; raises as `chunks` does, also where it is too long."""
        body = bytearray()
        try:
            async for chunk in self.chunks():
                body += chunk
                if len(body) > self._limit:
                    raise broken(self.instance, f"its answer has more than {self._limit} bytes (--max-answer-bytes)")
            return bytes(body)
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Let go of the connection; what still runs on the instance is cancelled."""
        self._exchange.close()


def broken(instance: Instance, how: ExchangeError | str) -> BrokenError:
    """The error for an instance that broke off; it is checked at once, for it may have died."""
    instance.record_failure(suspect=True)
    return BrokenError(instance, f"broke off: {how}; see its log")


class Upstream:
    """Sends requests to instances.

    Attributes:
        client: Set while the application runs.
        pace: Of the requests and streams that share its loop.
    """

    def __init__(self, config: ProxyConfig) -> None:
        self._config = config
        self.client: Client | None = None
        self.pace = Pace()

    async def ask(
        self, instance: Instance, method: str, path: str, headers: RawHeaders, content: bytes | None, *, seconds: float
    ) -> Reply:
        """Send a request and return with the first byte of the answer's body; close the reply when done.

        Args:
            instance: Whom to ask; one that refuses the connection is taken out at once.
            method: HTTP method.
            path: Path after the base URL.
            headers: Raw headers, as `forwarded_headers` makes them.
            content: The body.
            seconds: Time until the first byte.

        Raises:
            UnreachableError: No connection.
            BrokenError: It broke before a byte of the body came.
            LateError: No byte of the body in time.
        """
        if self.client is None:
            raise RuntimeError("the application's lifespan is not running: serve it with an ASGI server that runs it")
        now = asyncio.get_running_loop().time
        ends = now() + seconds
        connect_seconds = min(seconds, self._config.connect_timeout)
        try:
            exchange = await self.client.send(
                method, instance.url, path, headers, content, connect_seconds=connect_seconds, seconds=seconds
            )
            reply = Reply(instance, exchange, self._config)
            try:
                reply.first = await reply.next_chunk(max(0.0, ends - now()))
            except BaseException:
                exchange.close()
                raise
        except TimeoutError:
            instance.record_failure()
            raise LateError(instance, f"gave no answer within {seconds} s") from None
        except (ConnectError, ValueError) as error:
            instance.record_failure()
            instance.failed(str(error))
            raise UnreachableError(instance, f"cannot be reached: {error}") from error
        except ExchangeError as error:
            raise broken(instance, error) from error
        if not 200 <= reply.status <= 599:
            exchange.close()
            raise broken(instance, f"it answered with status {reply.status}, which is none of HTTP's")
        return reply
