# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""One run from its start to its summary."""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .faults import Faults
from .fleet import Fleet
from .notices import NODES
from .reading import LANES

if TYPE_CHECKING:
    from collections import Counter

# MiB a minute
MOST_GROWTH = 1.0
# What a run must not have: counts of the readers' tallies, each a pull or a wait.
_FAULTS = ("wrong", "late", "dead", "unexpected", "hung")
_WARM_UP_SECONDS = 5.0
# How soon what belonged to connections is given back.
_SETTLE_SECONDS = 30.0


class Soak:
    """`pace` is the longest pause of a reader between two pulls, in seconds."""

    def __init__(self, seed: int, pace: float) -> None:
        self._seed, self._pace = seed, pace
        self._dice = random.Random(seed)  # noqa: S311
        self._begun = time.monotonic()

    def run(self, seconds: float, kill_every: float) -> dict[str, Any]:
        """With faults, for so long."""
        with tempfile.TemporaryDirectory(prefix="kvdirect-soak-") as folder:
            fleet = Fleet(Path(folder), self._dice, self._pace)
            try:
                at_rest = self._warm_up(fleet)
                faults = Faults(fleet, self._dice)
                self._live(fleet, faults, seconds, kill_every)
                return self._end(fleet, at_rest, faults.injected)
            except BaseException:
                fleet.abandon()
                raise

    def count(self, pulls: int) -> dict[str, Any]:
        """Without, until each lane has ended so many pulls."""
        with tempfile.TemporaryDirectory(prefix="kvdirect-soak-") as folder:
            fleet = Fleet(Path(folder), self._dice, self._pace)
            try:
                at_rest = self._warm_up(fleet)
                while min(sum(one.values()) for one in _by_lane(_tally(fleet)).values()) < pulls:
                    time.sleep(1)
                    fleet.look()
                return self._end(fleet, at_rest, {})
            except BaseException:
                fleet.abandon()
                raise

    def _warm_up(self, fleet: Fleet) -> dict[str, dict[str, int]]:
        """What each process holds at rest, once everything has been used."""
        fleet.go()
        time.sleep(_WARM_UP_SECONDS)
        fleet.part()
        time.sleep(1)
        at_rest = fleet.held()
        fleet.go()
        return at_rest

    def _live(self, fleet: Fleet, faults: Faults, seconds: float, kill_every: float) -> None:
        until = time.monotonic() + seconds
        next_fault = next_look = time.monotonic()
        next_kill = next_fault + kill_every
        while (now := time.monotonic()) < until:
            faults.mend()
            if now >= next_kill:
                faults.kill()
                next_kill += kill_every
            elif now >= next_fault:
                faults.next()
                next_fault = now + self._dice.uniform(0.5, 2.5)
            if now >= next_look:
                fleet.look()
                next_look = now + 1
            time.sleep(0.1)
        faults.mend(every=True)

    def _end(
        self, fleet: Fleet, at_rest: dict[str, dict[str, int]], injected: Counter[str] | dict[str, int]
    ) -> dict[str, Any]:
        fleet.part()
        leaked = {what: sum(fleet[node].call("leaked")[what] for node in NODES) for what in ("leases", "blocks")}
        leaked.update(self._still_held(fleet, at_rest))
        fleet.close()
        tally = dict(fleet.tally)
        faults = {what: tally.pop(what, 0) for what in _FAULTS}
        own = {what.removeprefix("fault "): tally.pop(what) for what in list(tally) if what.startswith("fault ")}
        slopes = {node: round(slope, 3) for node, slope in sorted(fleet.slopes.items())}
        grew = any(slope >= MOST_GROWTH for slope in slopes.values())
        lanes = _by_lane(tally)
        unused = [lane for lane in LANES if not lanes[lane].get("accepted")]
        return {
            "clean": not (any(faults.values()) or any(leaked.values()) or grew or unused),
            "seed": self._seed,
            "seconds": round(time.monotonic() - self._begun, 1),
            "pulls": lanes,
            **faults,
            "leaked": leaked,
            "growth_mib_per_minute": slopes,
            "injected": dict(sorted({**injected, **own}.items())),
            "counts": {what: count for what, count in sorted(tally.items()) if what.split()[0] not in LANES},
        }

    def _still_held(self, fleet: Fleet, at_rest: dict[str, dict[str, int]]) -> dict[str, int]:
        """Descriptors and threads more than after the warm-up, in all processes together."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while True:
            now = fleet.held()
            more = {what: sum(max(0, now[node][what] - at_rest[node][what]) for node in NODES) for what in now["b"]}
            if not any(more.values()) or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        if any(more.values()):
            print(f"held at rest: {at_rest}, now: {now}", file=sys.stderr, flush=True)
        return more


def _tally(fleet: Fleet) -> dict[str, int]:
    total = dict(fleet.tally)
    for node in NODES:
        for what, count in fleet[node].call("tally").items():
            total[what] = total.get(what, 0) + count
    return total


def _by_lane(tally: dict[str, int]) -> dict[str, dict[str, int]]:
    """Pulls by lane and by how they ended."""
    lanes: dict[str, dict[str, int]] = {lane: {} for lane in LANES}
    for what, count in sorted(tally.items()):
        lane, _, end = what.partition(" ")
        if lane in lanes:
            lanes[lane][end] = count
    return lanes
