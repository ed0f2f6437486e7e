# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The half of a node that reads: it pulls under leases that may end at any moment, and looks at every byte."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import kvtransfer as kt

from .cache import AREAS, BLOCK_SIZE, DESTINATIONS, GUARD, TABLES, Ids, destination, guarded, holds
from .notices import SHARDS, Notices, Ticket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transfer.layout import Cache

LANES = ("shm", "cma", "message")
# What may be added to a wait's own bound: both sides may stand still meanwhile, on a busy machine.
PATIENCE = 10.0
CONNECT_SECONDS = 3.0
# Within which nothing of a killed owner may be accepted any more.
DEAD_SECONDS = 2.0
# What owners that come, go, stand still and take blocks back can cause, and nothing here asks for anything wrong.
_REFUSALS = (kt.LeaseExpired, kt.PullTimeout, kt.PullCancelled, kt.PeerLost)


@dataclass(slots=True)
class Owner:
    """One that this node is connected to: its nodes, one, or a shard each."""

    nodes: Sequence[str]
    peer: kt.Peer


@dataclass(slots=True)
class Try:
    """What one pull is to do."""

    owner: Owner
    tickets: Sequence[Ticket]
    lane: str
    start: int
    stop: int
    blocks: Ids


class Reading:
    """Runs in a thread of its own between `start` and `stop`; `pace` is the longest pause between pulls, in seconds."""

    def __init__(
        self, node: str, thread: int, engine: kt.Engine, cache: Cache, notices: Notices, seed: int, pace: float
    ) -> None:
        self._node, self._number = node, thread
        self._engine, self._cache, self._notices = engine, cache, notices
        self._dice = random.Random(seed)  # noqa: S311
        self._pace = pace
        self._owners: dict[Sequence[str], Owner] = {}
        self._known = [nodes for nodes in (SHARDS, ("b",), ("r1",), ("r2",)) if node not in nodes]
        self._old: list[tuple[Sequence[str], Sequence[Ticket]]] = []
        self._places = [destination(thread, number) for number in range(DESTINATIONS)]
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self.tally: Counter[str] = Counter()
        for place in self._places:
            self._cache[:, :, place] = GUARD

    def start(self) -> None:
        self._over.clear()
        self._thread = threading.Thread(target=self._run, name=f"reading-{self._number}")
        self._thread.start()

    def stop(self) -> None:
        """Part from all owners."""
        assert self._thread is not None
        self._over.set()
        self._thread.join()
        self._notices.rest(self._node, 1 + self._number)

    def _run(self) -> None:
        turn = 0
        while not self._over.is_set():
            self._notices.beat(self._node, 1 + self._number)
            turn += 1
            try:
                self._step(self._places[turn % DESTINATIONS])
            except OSError:
                self.tally["no descriptor"] += 1
                time.sleep(0.05)
            if self._pace:
                time.sleep(self._dice.uniform(0, self._pace))
        for owner in self._owners.values():
            owner.peer.close()
        self._owners.clear()

    def _step(self, blocks: Ids) -> None:
        nodes = self._dice.choice(self._known)
        owner = self._owners.get(nodes)
        if owner is None or not owner.peer.alive or self._dice.random() < 0.001:
            self._connect(nodes)
            return
        tickets = self._tickets(nodes)
        if tickets is None:
            time.sleep(0.0005)
            return
        start, stop = self._range(min(ticket.positions for ticket in tickets))
        lane = self._dice.choice(owner.peer.lanes)
        one = Try(owner, tickets, lane, start, stop, blocks)
        if not guarded(self._cache, blocks):
            self._wrong("late", one, "its destination was written to after it was quiet, or beyond what was asked for")
            self._cache[:, :, blocks] = GUARD
        self._pull(one)

    def _range(self, positions: int) -> tuple[int, int]:
        if self._dice.random() < 0.6:
            return 0, positions
        start = self._dice.randrange(positions)
        return start, self._dice.randint(start + 1, positions)

    def _tickets(self, nodes: Sequence[str]) -> Sequence[Ticket] | None:
        """One of each shard, for areas of one size; now and then those of a while ago."""
        if self._old and self._dice.random() < 0.05:
            known, tickets = self._dice.choice(self._old)
            return tickets if known == nodes else None
        area = self._dice.randrange(len(AREAS))
        areas = [area, *(self._dice.choice(_alike(area)) for _ in nodes[1:])]
        found = [self._notices.ticket(node, area) for node, area in zip(nodes, areas, strict=True)]
        tickets = [ticket for ticket in found if ticket is not None]
        if len(tickets) < len(nodes):
            return None
        self._old = [*self._old[-30:], (nodes, tickets)]
        return tickets

    def _connect(self, nodes: Sequence[str]) -> None:
        if (before := self._owners.pop(nodes, None)) is not None:
            before.peer.close()
        found = [self._notices.descriptor(node, self._node) for node in nodes]
        descriptors = [descriptor for descriptor in found if descriptor is not None]
        if len(descriptors) < len(nodes):
            time.sleep(0.02)
            return
        begun = time.monotonic()
        try:
            what = descriptors[0] if len(nodes) == 1 else descriptors
            peer = self._engine.connect(what, lanes=LANES, timeout=CONNECT_SECONDS)
            self._owners[nodes] = Owner(nodes, peer)
            self.tally["connected"] += 1
        except (kt.ConnectError, kt.TransportError) as error:
            self.tally[f"connect {type(error).__name__}"] += 1
            time.sleep(0.02)
        self._bounded(begun, CONNECT_SECONDS, "a connect")

    def _pull(self, one: Try) -> None:
        used = (one.stop - 1) // BLOCK_SIZE + 1
        if self._dice.random() < 0.3:
            self._hold(one)
        begun = time.monotonic()
        timeout = self._dice.choice((0.003, 0.03, 0.3, 1.0))
        try:
            pull = self._begin(one, timeout)
        except (kt.PeerLost, kt.LaneError) as error:
            self.tally[f"{one.lane} {type(error).__name__}"] += 1
            return
        if self._dice.random() < 0.03:
            time.sleep(self._dice.uniform(0, 0.0005))
            pull.cancel()
        self._end(one, pull, begun, timeout)
        self._cache[:, :, one.blocks[:used]] = GUARD
        if self._dice.random() < 0.2:
            self._talk(one)

    def _end(self, one: Try, pull: kt.Pull, begun: float, timeout: float) -> None:
        """Wait until it is done, and then until it is quiet."""
        try:
            pull.wait(timeout + PATIENCE)
            self._accept(one, begun)
        except _REFUSALS as error:
            self.tally[f"{one.lane} {type(error).__name__}"] += 1
        except kt.WaitTimeout:
            self._hung(f"a pull over {one.lane}")
        except kt.KVTransferError as error:
            self._wrong("unexpected", one, repr(error))
        while not pull.quiet:
            if time.monotonic() > begun + timeout + 2 * PATIENCE:
                self._hung(f"a pull over {one.lane} does not get quiet and")
                break
            time.sleep(0.0002)
        self._bounded(begun, timeout, f"a pull over {one.lane}")

    def _begin(self, one: Try, timeout: float) -> kt.Pull:
        local = [one.blocks[: max(AREAS[ticket.area] for ticket in one.tickets)]]
        tables = [[TABLES[ticket.area]] for ticket in one.tickets]
        rest = {"start": one.start, "stop": one.stop, "timeout": timeout, "lane": one.lane}
        if len(tables) == 1:
            return one.owner.peer.pull(one.tickets[0].lease, tables[0], local, **rest)  # type: ignore[arg-type]
        shards = cast("kt.ShardedPeer", one.owner.peer)
        return shards.pull(_leases(one), tables, local, **rest)  # type: ignore[arg-type]

    def _accept(self, one: Try, begun: float) -> None:
        self.tally[f"{one.lane} accepted"] += 1
        for shard, (node, ticket) in enumerate(zip(one.owner.nodes, one.tickets, strict=True)):
            of_shard = shard if len(one.tickets) > 1 else None
            if not holds(self._cache, one.blocks, ticket.lease.epoch, of_shard, one.start, one.stop):
                self._wrong("wrong", one, f"bytes of {node} are not those of {ticket}")
            if len(one.tickets) == 1 and self._notices.killed_for(node, one.owner.peer.incarnation) > (
                time.monotonic() - begun + DEAD_SECONDS
            ):
                self._wrong("dead", one, f"{node} was killed before")

    def _hold(self, one: Try) -> None:
        """From now on it is renewed, until one of several ways of parting; `affirm` is sometimes lost."""
        leases = _leases(one) if len(one.tickets) > 1 else one.tickets[0].lease
        shards = cast("kt.ShardedPeer", one.owner.peer)
        try:
            shards.hold(leases, term=self._dice.uniform(0.1, 1.0), affirm_within=self._dice.uniform(0.1, 0.5))
            self.tally["fault renewals lost" if self._dice.random() < 0.5 else "held"] += 1
        except kt.PullError:
            self.tally["hold refused"] += 1

    def _talk(self, one: Try) -> None:
        """Completes as they should be, and as they should not."""
        peer = cast("kt.ShardedPeer", one.owner.peer)
        shards = len(one.tickets) > 1
        leases = _leases(one) if shards else one.tickets[0].lease
        way = self._dice.choice(("complete", "doubled", "forged", "early", "unequal", "lost", "dropped"))
        try:
            if way == "forged":
                forged = kt.LeaseRef(self._dice.randrange(1 << 10), self._dice.getrandbits(64) | 1)
                peer.complete([forged] * len(one.tickets) if shards else forged)
            elif way == "unequal":
                peer.complete(leases, readers=self._dice.randint(2, 5))
            elif way == "early":
                self._complete_untimed(one)
            elif way == "dropped":
                peer.drop(leases)
            elif way != "lost":
                for _ in range(1 + (way == "doubled")):
                    peer.complete(leases)
        except kt.PullError:
            self.tally["talk refused"] += 1
        self.tally["completed" if way == "complete" else f"fault completes {way}"] += 1

    def _complete_untimed(self, one: Try) -> None:
        """Leases that nobody has pulled under, some of which have no term yet."""
        if len(one.tickets) == 1 and (ticket := self._notices.ticket(one.owner.nodes[0], self._dice.randrange(24))):
            one.owner.peer.complete(ticket.lease)

    def _bounded(self, begun: float, bound: float, what: str) -> None:
        if time.monotonic() > begun + bound + PATIENCE:
            self._hung(what)

    def _hung(self, what: str) -> None:
        self.tally["hung"] += 1
        print(f"{self._node}: {what} is beyond its bound", file=sys.stderr, flush=True)

    def _wrong(self, kind: str, one: Try, what: str) -> None:
        self.tally[kind] += 1
        where = f"[{one.start}, {one.stop}) of {list(one.tickets)} over {one.lane}"
        print(f"{self._node}: {kind}: {where}: {what}", file=sys.stderr, flush=True)


def _alike(area: int) -> list[int]:
    return [other for other, blocks in enumerate(AREAS) if blocks == AREAS[area]]


def _leases(one: Try) -> list[kt.LeaseRef]:
    return [ticket.lease for ticket in one.tickets]
