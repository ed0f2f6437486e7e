# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""All of them, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import connections, handshake, router, tickets

if TYPE_CHECKING:
    from collections.abc import Callable

TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        handshake.frames,
        handshake.hellos,
        tickets.tickets,
        tickets.settings,
        router.bodies,
        router.objects,
        router.headers,
        router.events,
        connections.heads,
    )
}
