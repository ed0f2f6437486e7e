# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the routers are asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests of one kind.

    Attributes:
        streams: Requests at a time.
        requests: Of a turn.
        events: Of each answer; 0: it is not streamed.
    """

    streams: int
    requests: int
    events: int

    events_of_a_stream: ClassVar[int] = 64

    @property
    def name(self) -> str:
        """As it is called in tables."""
        return f"{self.streams} {'streams' if self.events else 'plain'}"


_EVENTS = Workload.events_of_a_stream
WORKLOADS: tuple[Workload, ...] = (
    Workload(1, 500, 0),
    Workload(32, 1600, 0),
    Workload(1, 120, _EVENTS),
    Workload(32, 384, _EVENTS),
    Workload(256, 1024, _EVENTS),
    # So many that the beginning, when all ask at once, and the end are not most of the turn.
    Workload(1000, 5000, _EVENTS),
)
TINY: tuple[Workload, ...] = (Workload(2, 6, 0), Workload(3, 9, _EVENTS))
