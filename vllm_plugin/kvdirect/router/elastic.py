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
from typing import TYPE_CHECKING

from .channel import ChannelError
from .fleet import FleetFullError, RoleError
from .prefill_meter import PrefillMeter
from .roles import RoleLoad, RolePolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from .config import ProxyConfig
    from .fleet import Fleet
    from .instances import Role

LOOK_EVERY = 0.25  # seconds

_log = logging.getLogger("kvdirect.proxy")


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
