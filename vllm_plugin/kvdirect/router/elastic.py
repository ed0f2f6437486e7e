# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Instances that change their role while the router runs, by what it measures of them.

Nothing is restarted and no weights move: an instance that does both (`kv_both`, the default) is given requests of the
other kind, and ends those that it has. The rule is `RolePolicy`; here is what it is told, and what is done then.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from .channel import ChannelError
from .fleet import FleetFullError, RoleError
from .roles import RoleLoad, RolePolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .config import ProxyConfig
    from .fleet import Fleet
    from .instances import Role

# Seconds between two looks, and over which arrivals are counted.
LOOK_EVERY = 0.25
_WINDOW = 5.0
# How much of what was known of a prefill's seconds is left after each one that ends.
_MEMORY = 0.95

_log = logging.getLogger("kvdirect.proxy")


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


class Elastic:
    """Looks at the instances all the time, and moves one at a time."""

    def __init__(self, config: ProxyConfig, fleet: Fleet, changed: Callable[[Role], object]) -> None:
        """Prepare; `changed` is called with the new role of each instance that has changed."""
        self._fleet = fleet
        self._changed = changed
        self._decodes = config.elastic_decode_requests
        self._policy = RolePolicy()
        self._meter = PrefillMeter()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            role = self.look(time.monotonic())
            if role is not None:
                await self._move(role)

    def look(self, now: float) -> Role | None:
        """The role that should get an instance of the other one, if any."""
        prefill, decode = self._fleet.prefill, self._fleet.decode
        work = self._decoding() / self._decodes
        return self._policy.look(now, self._meter.look(now, prefill, prefill.up), RoleLoad(decode.up, work, 0.0))

    def _decoding(self) -> float:
        """Requests that are decoded by instances that stay; those that still wait for their prefill are none.

        Each has its decode instance from its beginning on: a queue of prompts, counted as decoding, would keep
        instances from the role that lacks them. How many wait on which instance is not known, so they count evenly.
        """
        held = sum(instance.in_flight for instance in self._fleet.decode)
        staying = sum(instance.in_flight for instance in self._fleet.decode if instance.state == "up")
        waiting = sum(instance.in_flight for instance in self._fleet.prefill)
        return max(0, held - waiting) * staying / held if held else 0.0

    async def _move(self, role: Role) -> None:
        others = self._fleet.pool("decode" if role == "prefill" else "prefill")
        movable = [one for one in others if one.state == "up" and not self._fleet.find(one.url, role)]
        if not movable:
            return
        moved = min(movable, key=lambda one: one.in_flight + one.caches)
        try:
            await self._fleet.change(moved.url, role)
        except (RoleError, FleetFullError, ChannelError) as error:
            _log.warning("%s does not become %s: %s", moved, role, error)
        else:
            self._changed(role)
