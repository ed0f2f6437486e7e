# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""HTTP/1.1 towards instances on httptools: what comes is handed on as it comes, with bounds.

General clients search their pools, wrap each part in several iterators and start a timer for each; here a part costs
its parsing and, where somebody waits for it, a future. Nothing is retried, redirected, unpacked or sent to a proxy.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Self, cast

import httptools

from .exchange import Exchange, ExchangeError
from .origin import Origin

if TYPE_CHECKING:
    from types import TracebackType

    from .bodies import RawHeaders

# Shorter than the 5 s after which vLLM's server closes an idle connection: one closed under a request would fail it.
_KEEPALIVE_SECONDS = 2.0
# Bytes of an answer's status line and headers.
_MAX_HEAD = 64 << 10
# Bytes of chunk sizes, extensions and trailers, beyond as much, for each byte of a body.
_FRAMING = 16
_NO_BODY = frozenset({204, 304})


class ConnectError(Exception):
    """No connection was made, so nothing was sent."""


class Client:
    """Connections to instances, kept a moment for the next request; queues nothing."""

    def __init__(self) -> None:
        self._idle: dict[Origin, dict[_Connection, None]] = {}
        self._origins: dict[str, Origin] = {}
        self._tls: ssl.SSLContext | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connections in list(self._idle.values()):
            for connection in list(connections):
                connection.close()

    async def send(
        self,
        method: str,
        url: str,
        path: str,
        headers: RawHeaders,
        content: bytes | None,
        *,
        connect_seconds: float,
        seconds: float | None = None,
    ) -> Exchange:
        """Send a request; returns when the head of its answer has come. The exchange must be closed.

        Args:
            method: HTTP method.
            url: Base URL.
            path: After that.
            headers: All but those of the connection and the length.
            content: The body.
            connect_seconds: For a connection.
            seconds: From there until the head has come.

        Raises:
            ConnectError: None was made.
            ExchangeError: It ended before the head of an answer had come, or that is none.
            TimeoutError: No head came in time.
            ValueError: No request can be sent to that URL.
        """
        origin = self._origin(url)
        connection = self._kept(origin) or await self._connect(origin, connect_seconds)
        exchange = connection.begin(_request(method, origin, path, headers, content))
        try:
            await exchange.head(seconds)
        except BaseException:
            exchange.close()
            raise
        return exchange

    def _kept(self, origin: Origin) -> _Connection | None:
        """A connection of before that is still good, as far as can be known."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.popitem()[0]
            if connection.is_open:
                return connection
        return None

    def _origin(self, url: str) -> Origin:
        origin = self._origins.get(url)
        if origin is None:
            if len(self._origins) > 1024:  # instances come and go
                self._origins.clear()
            origin = self._origins[url] = Origin.of(url)
        return origin

    async def _connect(self, origin: Origin, seconds: float) -> _Connection:
        if origin.tls and self._tls is None:
            self._tls = ssl.create_default_context()
        context = self._tls if origin.tls else None
        try:
            async with asyncio.timeout(seconds):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(self, origin), origin.host, origin.port, ssl=context
                )
        except TimeoutError:
            raise ConnectError(f"no connection within {seconds} s (--connect-timeout)") from None
        except (OSError, UnicodeError) as error:  # those of TLS and of names are OSErrors
            raise ConnectError(f"{type(error).__name__}: {error}") from error
        return connection

    def keep(self, connection: _Connection) -> None:
        """Its answer is complete: the next request may have it."""
        self._idle.setdefault(connection.origin, {})[connection] = None

    def forget(self, connection: _Connection) -> None:
        """It is closed, or about to be."""
        idle = self._idle.get(connection.origin)
        if idle is not None:
            idle.pop(connection, None)
            if not idle:
                del self._idle[connection.origin]


def _request(method: str, origin: Origin, path: str, headers: RawHeaders, content: bytes | None) -> bytes:
    lines = [b"%b %b%b HTTP/1.1\r\nhost: %b" % (method.encode(), origin.base, path.encode("ascii"), origin.named)]
    lines += [b"%b: %b" % pair for pair in headers]
    if content is None:
        return b"\r\n".join([*lines, b"\r\n"])
    lines.append(b"content-length: %d\r\n\r\n" % len(content))
    return b"\r\n".join(lines) + content


class _Connection(asyncio.Protocol):
    """One connection to an instance, and the exchange that it is used for now."""

    def __init__(self, client: Client, origin: Origin) -> None:
        self.origin = origin
        self._client = client
        self._exchange: Exchange | None = None
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def begin(self, request: bytes) -> Exchange:
        """Send a request."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._parts: list[bytes] = []  # of the body, out of the last read
        self.on_body = self._parts.append  # the parser's callback for each event, so no function of ours
        self._parser = httptools.HttpResponseParser(self)
        self._headers: RawHeaders = []
        self._framing = 0  # bytes that were not the body's own
        self._has_head = self._complete = self._more = False
        self._exchange = exchange = Exchange(self)
        self._transport.write(request)
        return exchange

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:  # it speaks unasked: what it would answer to the next request is anybody's guess
            self.close()
            return
        had_head = self._has_head
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._complete:
                self._fail(f"its answer is not HTTP/1.1: {error}")
                return
            self._more = True
        body = sum(map(len, self._parts))
        if self._frames_too_much(len(data) - body, body, had_head=had_head):
            return
        if self._parts:
            self._feed(exchange)
        if self._complete:
            self._finish(exchange, keep=self._reusable and not self._more)

    def _frames_too_much(self, framing: int, body: int, *, had_head: bool) -> bool:
        """Count what is not the body's own; each byte of the body allows for some. Too much ends the connection."""
        self._framing = max(0, self._framing + framing - _FRAMING * body)
        if not had_head:
            if self._size_of_head() > _MAX_HEAD:
                self._fail(f"its answer has a head of more than {_MAX_HEAD} bytes")
                return True
            self._framing *= not self._has_head  # what has come of the body with it is no more than a read
        elif self._framing > _MAX_HEAD:
            self._fail(f"its answer has more than {_MAX_HEAD} bytes around its body")
            return True
        return False

    def _size_of_head(self) -> int:
        """Bytes of the head; of one that has come whole, what its headers have without their ends of lines."""
        return sum(len(name) + len(value) for name, value in self._headers) if self._has_head else self._framing

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.forget(self)
        exchange = self._exchange
        if exchange is None:
            return
        if exc is None and self._has_head and self._until_end:
            self._finish(exchange, keep=False)  # it ends with the connection
        elif exc is None:
            self._fail("the connection was closed before the answer was complete")
        else:
            self._fail(f"{type(exc).__name__}: {exc}")

    def _feed(self, exchange: Exchange) -> None:
        if self._complete:
            del self._parts[self._last :]  # of another answer, which nobody has asked for
        if exchange.feed(self._parts) and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._parts.clear()

    # ---- of the parser

    def on_message_begin(self) -> None:
        self._more = self._complete

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head:  # else a trailer
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._headers = []  # what is announced is not the answer
            return
        if self._complete or self._exchange is None:
            return
        self._has_head = True
        names = {name for name, _ in self._headers}
        self._until_end = not (names & {b"content-length", b"transfer-encoding"} or status in _NO_BODY)
        self._exchange.began(status, self._headers)

    def on_message_complete(self) -> None:
        if self._has_head and not self._complete:
            self._complete = True
            self._last = len(self._parts)
            self._reusable = self._parser.should_keep_alive()  # the parser knows it no more after this call

    # ---- of the exchange

    def resume(self) -> None:
        """What waited was taken."""
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    @property
    def is_open(self) -> bool:
        """Whether the other side has not ended it."""
        return not self._transport.is_closing()

    def abort(self) -> None:
        """End it now; nobody waits for the rest."""
        self._exchange = None
        self._transport.abort()

    def close(self) -> None:
        """End it while it is idle."""
        self._client.forget(self)
        self._transport.close()

    def _finish(self, exchange: Exchange, *, keep: bool) -> None:
        self._exchange = None
        exchange.end()
        unsent = self._transport.get_write_buffer_size() > 0  # it has answered before it took the whole request
        if not keep or unsent or self._transport.is_closing():
            self._transport.abort()
            return
        self.resume()
        self._timer = asyncio.get_running_loop().call_later(_KEEPALIVE_SECONDS, self.close)
        self._client.keep(self)

    def _fail(self, text: str) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.end(ExchangeError(text))
        self._transport.abort()
