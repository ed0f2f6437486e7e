# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What readers tell an owner's program."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from .waiting import SLICE

if TYPE_CHECKING:
    from ._native import core


class Note(NamedTuple):
    """Something a reader said by `Peer.notify`.

    Attributes:
        reader: The reader's name, as it calls itself.
        incarnation: The reader's, as it says.
        body: What it said; from the network, so not to be trusted, and never to be unpickled.
    """

    reader: str
    incarnation: int
    body: bytes


def taken(native: core.Engine, timeout: float) -> list[Note]:
    """All notes there are; where there are none, the first ones within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        left = deadline - time.monotonic()
        notes = native.take_notes(min(SLICE, max(0.0, left)))
        if notes or left <= SLICE or native.closed:
            return [Note(*note) for note in notes]
