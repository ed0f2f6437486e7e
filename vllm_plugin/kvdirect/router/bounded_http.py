# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""HTTP/1.1 with bounds: uvicorn's protocol on httptools, which alone takes heads, trailers and pipelines without end.

A request's head is collected here and parsed at once; its body is passed on as it comes; what a client sends before
its last request was answered waits here, unparsed, and for more than MAX_AHEAD the connection is not read.
"""

from __future__ import annotations

import enum
import logging
import re
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .bodies import encode, error_object

if TYPE_CHECKING:
    import asyncio

    from .connections import Connections

# Bytes of a request's line and headers, and how many lines these may be.
MAX_HEAD = 32 << 10
MAX_HEAD_LINES = 256
# Bytes that a client may send before its last request was answered.
MAX_AHEAD = 64 << 10
# Seconds for a head, from the connection's begin or its first byte, and for what is left of a body after its answer;
# less where bodies get less.
HEAD_SECONDS = 20.0
# Bytes of chunk sizes, extensions and trailers, beyond MAX_HEAD, for each byte of a chunked body.
_FRAMING = 16
# Seconds, and bytes, in which what still comes is dropped after a refusal: closed at once, it would be lost to a reset.
_LINGER_SECONDS = 1.0
_LINGER_BYTES = 1 << 20
# What a client would rather speak (h2c, mostly) is ignored, as HTTP has it; the parser would take no body then.
_UPGRADE = re.compile(rb"(?im)^upgrade(?=[ \t]*:)")
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_REASONS = {408: b"Request Timeout", 431: b"Request Header Fields Too Large", 503: b"Service Unavailable"}

_log = logging.getLogger("kvdirect.proxy")


class _Stage(enum.Enum):
    """What the next bytes are."""

    HEAD = enum.auto()
    SIZED_BODY = enum.auto()
    CHUNKED_BODY = enum.auto()
    AHEAD = enum.auto()  # of a request that has come whole and is not answered
    DROPPED = enum.auto()


class BoundedHttp(HttpToolsProtocol):
    """One client's connection."""

    def __init__(self, connections: Connections, head_seconds: float, **given: Any) -> None:
        super().__init__(**given)
        self._all = connections
        self._head_seconds = head_seconds
        self._stage = _Stage.HEAD
        self._head = bytearray()
        self._ahead = bytearray()
        self._left = 0  # bytes of a sized body
        self._framing = 0  # bytes of a chunked body that were not the body's own
        self._dropped = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it, or say that there is no room."""
        super().connection_made(transport)
        if self._all.admit(self):
            self._give_time()
        else:
            text = "the router has as many connections as it takes (--max-connections); try again later"
            self._refuse(503, text, linger=0.0)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._all.forget(self)
        self._stop_timer()
        self._stage = _Stage.DROPPED
        super().connection_lost(exc)

    def give_way(self) -> None:
        """Close, since another connection needs the room and this one waits for a request."""
        if self.transport.get_write_buffer_size():  # it takes no answer, and would stay for ever
            self.transport.abort()
        else:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Take a part of what the client sends."""
        self._unset_keepalive_if_required()
        if self._stage is _Stage.HEAD and self._timer is None:
            self._give_time()
        while data:
            data = self._take(data)

    def _take(self, data: bytes) -> bytes:
        """Take the beginning of `data`, and return what is left of it."""
        if self._stage is _Stage.HEAD:
            return self._take_head(data)
        if self._stage is _Stage.SIZED_BODY:
            size = min(self._left, len(data)) or len(data)  # what the parser goes on with is its own affair
            self._left = max(0, self._left - size)
            self._parse(data[:size])
            return data[size:]
        if self._stage is _Stage.CHUNKED_BODY:
            self._framing += len(data)
            self._parse(data)
            if self._framing > MAX_HEAD:
                self._give_up("a chunked body with more around it than in it")
        elif self._stage is _Stage.AHEAD:
            self._keep(data)
        else:
            self._dropped += len(data)
            if self._dropped > _LINGER_BYTES:
                self.transport.abort()
        return b""

    def _take_head(self, data: bytes) -> bytes:
        known = len(self._head)
        if not known:  # blank lines before a request are nothing, and there may be any number
            data = data.lstrip(b"\r\n")
        self._head += data
        end = _END_OF_HEAD.search(self._head, max(0, known - 3))
        size = end.end() if end is not None else len(self._head)
        if size > MAX_HEAD or self._head.count(b"\n", 0, size) > MAX_HEAD_LINES:
            self._refuse(431, f"expected a request's head of at most {MAX_HEAD} bytes in {MAX_HEAD_LINES} lines")
            return b""
        if end is None:
            return b""
        head, rest = bytes(self._head[:size]), bytes(self._head[size:])
        self._head.clear()
        self._parse(_UPGRADE.sub(b"x-upgrade", head))
        return rest

    def _keep(self, data: bytes) -> None:
        if not self.cycle.keep_alive:
            return  # there will be no next request
        self._ahead += data
        if len(self._ahead) > MAX_AHEAD:
            self.flow.pause_reading()
        if len(self._ahead) > 8 * MAX_AHEAD:  # reading goes on whenever a body is waited for
            self._give_up("requests without end before the first is answered")

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # A CONNECT; it is answered as any other request, and is the last one.
            self.cycle.keep_alive = False
            self.on_message_complete()
        except httptools.HttpParserError as error:
            if self._stage is _Stage.DROPPED:
                return  # a request behind a chunked body
            _log.debug("a request cannot be parsed: %s", error)
            if self.cycle is not None and not self.cycle.response_complete:
                self._give_up("a body that cannot be parsed")
            else:
                self._all.refuse()
                self._stage = _Stage.DROPPED
                self.send_400_response("Invalid HTTP request received.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; what a chunked body ends with is none, whatever it is named."""
        if self._stage is _Stage.HEAD:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The application gets the request, whose body follows."""
        self._stop_timer()
        self._all.serve(self)
        declared = {name: value for name, value in self.headers if name in {b"content-length", b"transfer-encoding"}}
        if b"transfer-encoding" in declared:
            self._stage, self._framing = _Stage.CHUNKED_BODY, 0
        else:
            self._stage, self._left = _Stage.SIZED_BODY, int(declared.get(b"content-length", b"0"))
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass on a part of the body."""
        self._framing = max(0, self._framing - (1 + _FRAMING) * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The next request is not begun before this one is answered."""
        answered = self.cycle.response_complete
        super().on_message_complete()
        if answered:
            self._await_next()
        else:
            self._stage = _Stage.AHEAD

    def on_message_begin(self) -> None:
        """Begin a request; a chunked body's end is known only when it was parsed, and so one may follow in one part."""
        if self._stage is _Stage.AHEAD:
            self.cycle.keep_alive = False
            self._stage = _Stage.DROPPED
            raise _PipelinedError
        super().on_message_begin()

    def on_response_complete(self) -> None:
        """Go on with what came meanwhile."""
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._stage is _Stage.AHEAD:
            self._await_next()
        else:
            self._give_time()  # for the rest of a body that nobody wants

    def _await_next(self) -> None:
        self._stop_timer()
        self._stage = _Stage.HEAD
        self._all.wait(self)
        ahead, self._ahead = bytes(self._ahead), bytearray()
        if ahead:
            self.data_received(ahead)
        elif self.timeout_keep_alive_task is None:  # what came of the last body has ended that
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _give_time(self) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(self._head_seconds, self._too_late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        if self._head:
            self._refuse(408, f"the request's head did not come within {self._head_seconds:g} s")
        else:
            self.transport.close()

    def _refuse(self, status: int, text: str, *, linger: float = _LINGER_SECONDS) -> None:
        """Answer a request that the application never sees, and close."""
        self._stop_timer()
        self._stage = _Stage.DROPPED
        self._head.clear()
        self._all.refuse()
        body = encode(error_object(status, text))
        head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        self.transport.write(head % (status, _REASONS[status], len(body)) + body)
        self.loop.call_later(linger, self.transport.close)

    def _give_up(self, why: str) -> None:
        """End a connection whose request is in the application's hands: it is told that the client has left."""
        _log.debug("a connection is ended for %s", why)
        self._all.refuse()
        self._stage = _Stage.DROPPED
        self.transport.abort()


class _PipelinedError(Exception):
    """Ends the parsing of what follows a chunked body."""
