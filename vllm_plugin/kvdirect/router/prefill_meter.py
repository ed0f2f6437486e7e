# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What instances that prefill have to do, told by counts alone: without clocks or sockets."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from .roles import RoleLoad

if TYPE_CHECKING:
    from collections.abc import Iterable

# Seconds over which arrivals are counted.
_WINDOW = 5.0
# How much of what was known of a prefill's seconds is left after each one that ends.
_MEMORY = 0.95


class Counted(Protocol):
    """What is known of an instance in one role: an `Instance`, or a simulated one."""

    @property
    def taken(self) -> int:
        """Requests it was given."""

    @property
    def in_flight(self) -> int:
        """Requests it works on."""


@dataclass(slots=True)
class PrefillMeter:
    """What prefill instances have to do, from how many requests each has and has had.

    An instance computes while it has a request, so a prefill takes the seconds in which it had some over the requests
    that it ended; what waits behind the first is a queue.
    """

    _seen: dict[Counted, tuple[int, int]] = field(default_factory=dict)  # taken, in flight
    _arrivals: deque[tuple[float, int]] = field(default_factory=deque)
    _looked: float | None = None
    _busy: float = 0.0  # seconds, and
    _ended: float = 0.0  # requests, both fading

    def look(self, now: float, instances: Iterable[Counted], up: int) -> RoleLoad:
        """The load now.

        Args:
            now: Seconds on a clock that only goes forward.
            instances: Of the role, those included that only end what they have.
            up: How many of them take requests.
        """
        apart = 0.0 if self._looked is None else now - self._looked
        self._looked = now
        arrived, seen = 0, {}
        for instance in instances:
            taken, in_flight = instance.taken, instance.in_flight
            before, waited = self._seen.get(instance, (taken, in_flight))
            arrived += max(0, taken - before)
            # Of the time between two looks as much as of the looks themselves.
            self._count(apart * ((waited > 0) + (in_flight > 0)) / 2, max(0, waited + taken - before - in_flight))
            seen[instance] = taken, in_flight
        self._seen = seen
        self._arrivals.append((now, arrived))
        while self._arrivals[0][0] <= now - _WINDOW:
            self._arrivals.popleft()
        seconds = self._busy / self._ended if self._ended else 0.0
        rate = sum(number for _, number in self._arrivals) / _WINDOW
        waiting = sum(max(0, in_flight - 1) for _, in_flight in seen.values())
        return RoleLoad(up, rate * seconds, waiting * seconds)

    def _count(self, busy: float, ended: int) -> None:
        self._busy += busy
        for _ in range(min(ended, 100)):
            self._busy, self._ended = self._busy * _MEMORY, self._ended * _MEMORY + 1
