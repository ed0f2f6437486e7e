# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Descriptors for single readers."""

from __future__ import annotations

import time

from ._native import core, load_mac_library
from .errors import ConfigError
from .peer import check_seconds

# Of an identity; the core has the same number.
_MOST_BYTES = 64
_LAST = (1 << 64) - 1


def descriptor_for(descriptor: bytes, *, reader: str, valid_for: float) -> bytes:
    """An owner's descriptor as one reader's: it admits sessions for a while, and does not contain the owner's secret.

    The owner needs not be told, nor be in this process: it works out again what it gave to whom. Sessions that are
    there when the time is over go on. Readers of one name share their part of what the owner takes in.

    Args:
        descriptor: What `Engine.descriptor` gave.
        reader: Who gets it, in 1 to 64 bytes of UTF-8.
        valid_for: Seconds from now, by this host's clock, in which the reader may connect, compared by the owner's.

    Raises:
        ConfigError: The descriptor was made by this function: a reader cannot pass on what it got. Or an argument is
            bad, or neither libcrypto nor libsodium is installed.
        CodecError: The descriptor does not decode.
        MismatchError: It is of another protocol version.
    """
    check_seconds("valid_for", valid_for, "descriptor_for")
    identity = reader.encode(errors="replace")
    if not 0 < len(identity) <= _MOST_BYTES:
        raise ConfigError(f"reader={reader!r}: expected 1 to {_MOST_BYTES} bytes", operation="descriptor_for")
    load_mac_library()
    return core.descriptor_for(descriptor, identity, int(min((time.time() + valid_for) * 1000, _LAST)))
