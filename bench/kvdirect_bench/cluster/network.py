# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Transfers over links that they share: each gets an equal part of every link that it crosses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvdirect_bench.errors import BenchUsageError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import simpy

# Seconds: a transfer that has less left is done. Shorter ones than the clock can tell apart would never end.
_INSTANT = 1e-9


class Link:
    """One direction of an instance's network.

    Attributes:
        speed: Bytes a second.
        flows: Transfers that cross it now.
        carried: Bytes so far.
        busiest: The largest part of its speed that was ever used, 1 when it was full.
    """

    def __init__(self, speed: float) -> None:
        if speed <= 0:
            raise BenchUsageError(f"a link of {speed:g} bytes a second: expected more than 0")
        self.speed = speed
        self.flows = 0
        self.carried = 0.0
        self.busiest = 0.0


@dataclass(slots=True, eq=False)
class _Flow:
    left: float
    links: Sequence[Link]
    done: simpy.Event
    rate: float = 0.0


class Network:
    """All transfers of a cluster."""

    def __init__(self, env: simpy.Environment, setup: float) -> None:
        if setup < 0:
            raise BenchUsageError(f"a set-up of {setup:g} seconds: expected at least 0")
        self._env = env
        self._setup = setup
        self._flows: list[_Flow] = []
        self._since = 0.0
        self._turn = 0

    def carry(self, size: float, links: Sequence[Link]) -> Generator[simpy.Event, object, None]:
        """Take the set-up, then carry so many bytes over all these links at once; ends when they are there."""
        yield self._env.timeout(self._setup)
        flow = _Flow(size, links, self._env.event())
        self._settle()
        self._flows.append(flow)
        for link in links:
            link.flows += 1
        self._share()
        yield flow.done

    def _settle(self) -> None:
        """Count what was carried since the last time that the rates changed."""
        passed = self._env.now - self._since
        self._since = self._env.now
        for flow in self._flows:
            moved = min(flow.left, flow.rate * passed)
            flow.left -= moved
            for link in flow.links:
                link.carried += moved

    def _share(self) -> None:
        """Set the rates anew, and wait for the next transfer to end."""
        for flow in self._flows:
            flow.rate = min(link.speed / link.flows for link in flow.links)
        used: dict[Link, float] = {}
        for flow in self._flows:
            for link in flow.links:
                used[link] = used.get(link, 0.0) + flow.rate
        for link, rate in used.items():
            link.busiest = max(link.busiest, rate / link.speed)
        self._turn += 1
        if self._flows:
            self._env.process(self._wait(min(flow.left / flow.rate for flow in self._flows), self._turn))

    def _wait(self, length: float, turn: int) -> Generator[simpy.Event, object, None]:
        yield self._env.timeout(length)
        if turn != self._turn:
            return  # the rates have changed since
        self._settle()
        ended = [flow for flow in self._flows if flow.left <= flow.rate * _INSTANT]
        self._flows = [flow for flow in self._flows if flow.left > flow.rate * _INSTANT]
        for flow in ended:
            for link in flow.links:
                link.flows -= 1
            flow.done.succeed()
        self._share()
