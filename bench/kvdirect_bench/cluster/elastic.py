# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Roles that change: the router's rule, on what a router can measure of simulated instances."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvdirect.router.prefill_meter import PrefillMeter
from kvdirect.router.roles import RoleLoad, RolePolicy, RoleSettings
from kvdirect_bench.errors import BenchUsageError

if TYPE_CHECKING:
    from collections.abc import Generator

    import simpy

    from kvdirect.router.roles import Role

    from .dispatch import Dispatch, Instance


@dataclass(frozen=True, slots=True)
class Elastic:
    """How a simulated router changes roles.

    Attributes:
        token_seconds: How long a decoded token may take, at most.
        settings: Of the rule.
        every: Seconds between two looks.
        window: Seconds over which arrivals are counted.
        at_once: An instance takes requests of its new role while it still works on those of its old one; otherwise it
            is empty first.
        decode_requests: Measure as `kvdirect proxy --elastic` does, from how many requests each instance has: so many
            are what one that decodes can have; `token_seconds` and `window` then say nothing. 0: prefill by tokens,
            and decoding by how long a token takes.
    """

    token_seconds: float
    settings: RoleSettings = field(default_factory=RoleSettings)
    every: float = 0.25
    window: float = 5.0
    at_once: bool = True
    decode_requests: int = 0

    def __post_init__(self) -> None:
        for name in ("token_seconds", "every", "window"):
            if getattr(self, name) <= 0:
                raise BenchUsageError(f"{name} {getattr(self, name):g}: expected more than 0")
        if self.decode_requests < 0:
            raise BenchUsageError(f"decode_requests {self.decode_requests}: expected at least 0")


@dataclass(frozen=True, slots=True)
class Change:
    """An instance changed its role.

    Attributes:
        decided: When the rule said so.
        joined: When it took its new role.
        role: The new one.
        prefill: Instances of that role from then on.
    """

    decided: float
    joined: float
    role: Role
    prefill: int


class Controller:
    """Looks at the instances, and moves one at a time.

    Attributes:
        changes: So far.
    """

    def __init__(self, env: simpy.Environment, dispatch: Dispatch, settings: Elastic) -> None:
        self.changes: list[Change] = []
        self._env = env
        self._dispatch = dispatch
        self._settings = settings
        self._policy = RolePolicy(settings.settings)
        self._arrived: deque[tuple[float, int]] = deque([(0.0, 0)])
        self._fastest = 0.0
        self._meter = PrefillMeter()
        env.process(self._run())

    def _run(self) -> Generator[simpy.Event, object, None]:
        while True:
            yield self._env.timeout(self._settings.every)
            loads = self._counted() if self._settings.decode_requests else (self._prefill(), self._decode())
            role = self._policy.look(self._env.now, *loads)
            if role is not None:
                yield from self._move(role)

    def _of(self, role: str) -> list[Instance]:
        return [one for one in self._dispatch.instances if one.role == role]

    def _counted(self) -> tuple[RoleLoad, RoleLoad]:
        """By the router's own measure."""
        prefills, decodes = self._of("prefill"), self._of("decode")
        ending = [one for one in self._dispatch.instances if one.role != "prefill" and one.prefill.in_flight]
        in_flight = sum(one.decoding for one in decodes)
        prefill = self._meter.look(self._env.now, [one.prefill for one in (*prefills, *ending)], len(prefills))
        return prefill, RoleLoad(len(decodes), in_flight / self._settings.decode_requests, 0.0)

    def _prefill(self) -> RoleLoad:
        now, window = self._env.now, self._settings.window
        self._arrived.append((now, self._dispatch.prompts))
        while len(self._arrived) > 1 and self._arrived[1][0] <= now - window:
            self._arrived.popleft()
        then, before = self._arrived[0]
        rate = (self._dispatch.prompts - before) / (now - then) if now > then else 0.0
        instances = self._of("prefill")
        costs = [one.engine.token_cost for one in instances if one.engine.token_cost]
        cost = sum(costs) / len(costs) if costs else 0.0
        return RoleLoad(len(instances), rate * cost, sum(one.engine.queued for one in instances) * cost)

    def _decode(self) -> RoleLoad:
        """Requests in flight over how many there can be: a token takes longer with each, from the fastest ever on."""
        instances = self._of("decode")
        work = 0.0
        for one in instances:
            seconds = one.engine.token_seconds
            if not seconds or not one.decoding:
                continue
            self._fastest = min(self._fastest or seconds, seconds)
            work += max(0.0, seconds - self._fastest) / max(self._settings.token_seconds - self._fastest, 1e-9)
        return RoleLoad(len(instances), work, 0.0)

    def _move(self, role: Role) -> Generator[simpy.Event, object, None]:
        """Take the least busy instance of the other role; it ends what it has, and joins."""
        decided = self._env.now
        other = "decode" if role == "prefill" else "prefill"
        moved = min(self._of(other), key=lambda one: (one.decoding, one.engine.queued))
        moved.role = role if self._settings.at_once else None
        while moved.role is None:
            if moved.idle:
                moved.role = role
            else:
                yield self._env.timeout(0.05)
        self.changes.append(Change(decided, self._env.now, role, len(self._of("prefill"))))
