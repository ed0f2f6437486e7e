# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What two engines compare before one reads from the other."""

from __future__ import annotations

PROTOCOL_VERSION = 4

# Named values, in the order in which they are compared.
Fingerprint = tuple[tuple[str, str], ...]


def first_difference(owner: Fingerprint, reader: Fingerprint) -> tuple[str, str, str] | None:
    """The first field in which two fingerprints differ, as (field, owner's value, reader's value)."""
    mine, theirs = dict(owner), dict(reader)
    for name in [*mine, *(name for name in theirs if name not in mine)]:
        ours, other = mine.get(name, "(absent)"), theirs.get(name, "(absent)")
        if ours != other:
            return name, ours, other
    return None
