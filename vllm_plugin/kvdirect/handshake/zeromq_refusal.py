# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What a reader of protocol version 2 or older is told, in the one form that it understands: ZeroMQ's.

In ZMTP 2.0, which every ZeroMQ still takes: there messages follow the greeting at once, without waiting for the peer's.
"""

from __future__ import annotations

import struct

from kvdirect.fingerprint import PROTOCOL_VERSION

from .frames import MAGIC, ZEROMQ_SIGNATURE, ZEROMQ_VERSIONS
from .messages import Refusal, pack

_GREETING = ZEROMQ_SIGNATURE + b"\x01\x06"  # ZMTP 2.0, a ROUTER
_NO_IDENTITY = b"\x00\x00"


def zeromq_refusal() -> bytes:
    """Bytes after which that reader says that the protocol versions differ, and which both are."""
    body = pack(Refusal("protocol_version", str(PROTOCOL_VERSION), ZEROMQ_VERSIONS))
    message = struct.pack("!4sH", MAGIC, PROTOCOL_VERSION) + body
    return _GREETING + _NO_IDENTITY + bytes([0, len(message)]) + message
