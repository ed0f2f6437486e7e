# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What happens to nodes every few seconds, from outside; readers add lost, forged and doubled words by themselves."""

from __future__ import annotations

import resource
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING

from .notices import NODES
from .vitals import held

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from .fleet import Fleet

    Undo = Callable[[], None]

_FORKED_SECONDS = 20.0


class Faults:
    """Picks a fault and a node at random; at most one of a kind at a time."""

    def __init__(self, fleet: Fleet, dice: random.Random) -> None:
        self._fleet, self._dice = fleet, dice
        self._kinds: tuple[Callable[[], Undo | None], ...] = (
            self._stop_an_owner,
            self._stop_a_reader,
            self._fill_a_table,
            self._fill_both,
            self._short_descriptors,
            self._fork,
            self._cut,
            self._black_hole,
        )
        self._standing: list[tuple[float, str, Undo]] = []
        self.injected: Counter[str] = Counter()

    def next(self) -> None:
        """Another one, for up to two seconds."""
        kind = self._dice.choice(self._kinds)
        name = kind.__name__.strip("_").replace("_", " ")
        if any(name == other for _, other, _ in self._standing):
            return
        undo = kind()
        self.injected[name] += 1
        if undo is not None:
            self._standing.append((time.monotonic() + self._dice.uniform(0.2, 2.0), name, undo))

    def mend(self, *, every: bool = False) -> None:
        """Undo those whose time is over, or all."""
        now = time.monotonic()
        over = [standing for standing in self._standing if every or standing[0] <= now]
        self._standing = [standing for standing in self._standing if standing not in over]
        for _, _, undo in over:
            undo()

    def kill(self) -> None:
        self.mend(every=True)
        node = self._dice.choice(NODES)
        if self._dice.random() < 0.5:
            self._leave_a_child(node)
        self._fleet.kill(node)
        self.injected["kill -9 owner" if node.startswith(("a", "b")) else "kill -9 reader"] += 1

    def _stop_an_owner(self) -> Undo:
        return self._stop(self._dice.choice(("a0", "a1", "b")))

    def _stop_a_reader(self) -> Undo:
        return self._stop(self._dice.choice(("r1", "r2")))

    def _stop(self, node: str) -> Undo:
        process = self._fleet[node]
        process.signal(signal.SIGSTOP)
        return lambda: process.signal(signal.SIGCONT)

    def _fill_a_table(self) -> None:
        self._fleet[self._awake()].call("fill_table")

    def _fill_both(self) -> None:
        """Those that pull from each other have no room for each other."""
        self._wake()
        for node in ("b", "r1"):
            self._fleet[node].call("fill_table")

    def _short_descriptors(self) -> Undo:
        pid = self._fleet[self._dice.choice(NODES)].pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        room = self._dice.randrange(6)
        # A limit is on the highest number: what is in use stays, and gaps below it may be filled.
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (held(pid)["descriptors"] + room, limits[1]))

        def restore() -> None:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)

        return restore

    def _fork(self) -> None:
        self._leave_a_child(self._awake())

    def _leave_a_child(self, node: str) -> None:
        self._fleet.children.append(self._fleet[node].call("fork", seconds=_FORKED_SECONDS))

    def _cut(self) -> None:
        relay = self._fleet.relays[self._dice.choice(list(self._fleet.relays))]
        for strand in list(relay.strands):
            strand.cut()
        self._forget_ended()

    def _black_hole(self) -> Undo:
        """What readers say does not arrive, nor does its end."""
        relay = self._fleet.relays[self._dice.choice(list(self._fleet.relays))]
        strands = list(relay.strands)
        for strand in strands:
            strand.hold_back_requests()

        def heal() -> None:
            for strand in strands:
                strand.let_requests_through()

        return heal

    def _forget_ended(self) -> None:
        for relay in self._fleet.relays.values():
            for strand in [strand for strand in relay.strands if strand.ended.is_set()]:
                relay.strands.remove(strand)
                strand.close()

    def _awake(self) -> str:
        self._wake()
        return self._dice.choice(NODES)

    def _wake(self) -> None:
        """Nobody stands still any more: a node is to answer."""
        now = [standing for standing in self._standing if standing[1].startswith("stop")]
        self._standing = [standing for standing in self._standing if standing not in now]
        for _, _, undo in now:
            undo()
