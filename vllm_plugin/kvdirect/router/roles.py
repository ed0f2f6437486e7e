# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""When an instance should change its role: a rule on what was measured, without clocks or sockets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Role = Literal["prefill", "decode"]


@dataclass(frozen=True, slots=True)
class RoleLoad:
    """What was measured of all instances of one role together.

    Attributes:
        instances: That take requests in this role.
        work: How many instances the work that comes would keep busy: for prefill, the seconds of computing that arrive
            in a second; for decode, requests in flight over those that one instance can have at the speed wanted.
        queue: Seconds of one instance's computing that wait and that nobody has begun.
    """

    instances: int
    work: float
    queue: float

    def __post_init__(self) -> None:
        for name in ("instances", "work", "queue"):
            _check(name, getattr(self, name), 0.0)


@dataclass(frozen=True, slots=True)
class RoleSettings:
    """How readily roles change.

    Attributes:
        enough: Nothing changes while neither role needs more than this part of its instances.
        gain: The role that is worse off must be better off by this part after a change, as far as can be told.
        patience: Seconds for which a change must have looked right without a break.
        pause: Seconds between two changes.
        horizon: Seconds in which a queue should be worked off.
        least: Instances that each role keeps.
    """

    enough: float = 0.5
    gain: float = 0.1
    patience: float = 1.0
    pause: float = 1.0
    horizon: float = 4.0
    least: int = 1

    def __post_init__(self) -> None:
        for name in ("enough", "gain", "patience", "pause"):
            _check(name, getattr(self, name), 0.0)
        _check("horizon", self.horizon, 1e-3)
        _check("least", self.least, 1)
        if self.gain >= 1:
            raise ValueError(f"gain {self.gain}: expected less than 1")


class RolePolicy:
    """Decides from looks that follow each other; it remembers since when a change has looked right.

    A role's need is the work that comes to it, and its queue spread over the horizon. How hard pressed it is, is need
    over instances. An instance moves when that makes the harder pressed of the two roles less so.
    """

    def __init__(self, settings: RoleSettings | None = None) -> None:
        self._settings = settings or RoleSettings()
        self._wanted: Role | None = None
        self._since = 0.0
        self._changed = -math.inf

    def look(self, now: float, prefill: RoleLoad, decode: RoleLoad) -> Role | None:
        """The role that should get an instance of the other; None: leave all as it is.

        Args:
            now: Seconds on a clock that only goes forward.
            prefill: As measured just now.
            decode: As measured just now.
        """
        wanted = self._better(prefill, decode)
        if wanted != self._wanted:
            self._wanted, self._since = wanted, now
        settled = now - self._since >= self._settings.patience and now - self._changed >= self._settings.pause
        if wanted is None or not settled:
            return None
        self._changed, self._wanted = now, None
        return wanted

    def _better(self, prefill: RoleLoad, decode: RoleLoad) -> Role | None:
        need_prefill, need_decode = (load.work + load.queue / self._settings.horizon for load in (prefill, decode))
        before = _worst(need_prefill, prefill.instances, need_decode, decode.instances)
        if before <= self._settings.enough:
            return None
        best: Role | None = None
        limit = before * (1 - self._settings.gain) if math.isfinite(before) else before
        if decode.instances > self._settings.least:
            after = _worst(need_prefill, prefill.instances + 1, need_decode, decode.instances - 1)
            if after < limit:
                best, limit = "prefill", after
        if prefill.instances > self._settings.least:
            after = _worst(need_prefill, prefill.instances - 1, need_decode, decode.instances + 1)
            if after < limit:
                best = "decode"
        return best


def _worst(need_prefill: float, prefill: int, need_decode: float, decode: int) -> float:
    return max(_pressed(need_prefill, prefill), _pressed(need_decode, decode))


def _pressed(need: float, instances: int) -> float:
    """Need over instances; a role without any is pressed without a bound, as its requests cannot be served."""
    return need / instances if instances else math.inf


def _check(name: str, value: float, low: float) -> None:
    if not math.isfinite(value) or value < low:
        raise ValueError(f"{name} {value}: expected a number from {low:g}")
