# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The handshake's wire form: a header of fixed size, then one message.

The header (magic, protocol version, length) is the same in every version from 3 on. It is judged before anything that
follows is read, so a peer makes nobody take in more than the limit for what it may send.
"""

from __future__ import annotations

import struct
from typing import Literal

from kvdirect.errors import WireError
from kvdirect.fingerprint import PROTOCOL_VERSION

HEADER = struct.Struct("!4sHI")
MAGIC = b"KVDH"
# Protocol versions up to 2 spoke ZeroMQ; these are the first bytes of whoever speaks it, in every version of it.
ZEROMQ_SIGNATURE = b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f"
ZEROMQ_VERSIONS = "2 or older"
# How TLS begins (RFC 8446, section 5.1), and the fatal alert "handshake_failure" to it (section 6).
TLS_HELLO = b"\x16\x03"
TLS_REFUSAL = b"\x15\x03\x01\x00\x02\x02\x28"

# How the one HTTP request begins that is answered, if that was switched on; as long as a header.
HTTP_QUERY = b"GET /query"

# Why bytes are no message of ours: label values, so there are no others.
Fault = Literal["not_ours", "too_large", "malformed"]


class FrameError(WireError):
    """Bytes that are no frame which the other side may send."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault: Fault = fault


class TlsError(WireError):
    """The peer has keys, and this engine has none."""


class HttpQueryError(WireError):
    """It asks by HTTP which engine this is."""


class OtherVersionError(WireError):
    """The peer speaks another protocol version; `version` is as much as its first bytes say of it."""

    def __init__(self, version: str) -> None:
        super().__init__(f"message: protocol version {version}, this engine speaks {PROTOCOL_VERSION}")
        self.version = version


def framed(body: bytes) -> bytes:
    """A message behind its header."""
    return HEADER.pack(MAGIC, PROTOCOL_VERSION, len(body)) + body


class FrameReader:
    """Puts one frame together as its bytes arrive; holds no more than came, and never more than the limit.

    Attributes:
        version: The sender's protocol version, 0 until the header is complete.
        missing: Bytes to take next; 0 when the frame is complete.
        body: The message, as far as it came.
    """

    def __init__(self, limit: int, other_limit: int = -1) -> None:
        """Accept a body of at most `limit` bytes; of another protocol version, `other_limit`, or none below 0."""
        self.version = 0
        self.missing = HEADER.size
        self.body = bytearray()
        self._limit = limit
        self._other_limit = other_limit
        self._header = bytearray()

    def take(self, data: bytes) -> None:
        """Take what came next, at most `missing` bytes.

        Raises:
            FrameError: These are no bytes of ours, or more are announced than we read.
            HttpQueryError: This is a request for `/query`.
            OtherVersionError: Of a version whose messages are not read here.
        """
        self.missing -= len(data)
        if self.version:
            self.body += data
            return
        self._header += data
        if not self.missing:
            self._judge()

    def _judge(self) -> None:
        if self._header == ZEROMQ_SIGNATURE:
            raise OtherVersionError(ZEROMQ_VERSIONS)
        if self._header == HTTP_QUERY:
            raise HttpQueryError("message: it speaks HTTP")
        magic, version, length = HEADER.unpack(self._header)
        if self._header.startswith(TLS_HELLO):
            raise TlsError("message: it speaks TLS: it has keys, and this engine has none")
        if magic != MAGIC or version == 0:
            raise FrameError("not_ours", "message: not a KVDirect handshake")
        if version != PROTOCOL_VERSION and length > self._other_limit:
            raise OtherVersionError(str(version))
        if length > self._limit:
            raise FrameError("too_large", f"message: {length} bytes, at most {self._limit} are read")
        self.version, self.missing = version, length
