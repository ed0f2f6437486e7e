# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""How gradients get from trainers into stores: a trainer leases them and says so, the store pulls them when it likes.

A trainer's notes to a store, little-endian: `H`, its number, and the descriptor of the engine that has its gradients;
then `G`, its number, the step, slot and epoch of a lease, and which rows of its memory the gradients are.
"""

from __future__ import annotations

import struct
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import kvtransfer as kt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence, Set

    from kvtransfer import Note, Peer, Pull

    from .data import Floats, Ints

_HELLO = struct.Struct("<cI")
_PUSH = struct.Struct("<cIQIQII")
_MOST_TRAINERS = 256
PATIENCE = 60.0  # seconds in which a store applies a push, or its trainer ends
# Seconds that one trainer may keep a store from all others.
_CONNECT = 5.0
_PULL = 5.0


@dataclass(frozen=True)
class Hello:
    """A trainer says where it is: the descriptor of the engine that has its gradients."""

    trainer: int
    descriptor: bytes


@dataclass(frozen=True)
class Push:
    """Gradients that a trainer holds ready for one store: `count` rows of its memory from `first` on."""

    trainer: int
    step: int
    lease: kt.LeaseRef
    first: int
    count: int

    def note(self) -> bytes:
        """What the store is told."""
        lease = self.lease
        return _PUSH.pack(b"G", self.trainer, self.step, lease.slot, lease.epoch, self.first, self.count)


@dataclass
class _Trainer:
    descriptor: bytes
    peer: Peer | None = None


class Landing:
    """A store's side: connections to trainers, and memory where one push at a time lands."""

    def __init__(self, name: str, width: int, max_rows: int) -> None:
        """`max_rows`: of one push."""
        self._ids = kt.empty((max_rows, 1), "int64")
        self._slopes = kt.empty((max_rows, width), "float32")
        self._engine = kt.Engine(name=f"{name}-landing")
        self._engine.publish(_map_of(self._engine, self._ids, self._slopes))
        self._trainers: dict[int, _Trainer] = {}
        self._last: Pull | None = None

    @property
    def trainers(self) -> Set[int]:
        """Who has said hello."""
        return self._trainers.keys()

    def meet(self, hello: Hello) -> None:
        """Connect to a trainer, or to one that comes anew under a number that was there.

        Raises ConnectError where it cannot be reached now: its pushes try once more.
        """
        if hello.trainer not in self._trainers and len(self._trainers) >= _MOST_TRAINERS:
            alive = {number: one for number, one in self._trainers.items() if one.peer is not None and one.peer.alive}
            self._trainers = alive
            if len(alive) >= _MOST_TRAINERS:
                raise ValueError(f"there are {_MOST_TRAINERS} trainers already")
        met = _Trainer(hello.descriptor)
        try:
            self._connect(met)
        except kt.ConnectError:
            self._trainers[hello.trainer] = met
            raise
        self._trainers[hello.trainer] = met

    def pull(self, push: Push) -> tuple[Ints, Floats]:
        """Ids and gradients, good until the next pull; a connection that was lost is made anew."""
        if not 0 < push.count <= len(self._ids):
            raise ValueError(f"it has {push.count} rows, at most {len(self._ids)}")
        peer = self._peer(push.trainer)
        self._let_land()
        remote, local = range(push.first, push.first + push.count), range(push.count)
        self._last = peer.pull(push.lease, [remote], [local], stop=push.count, timeout=_PULL)
        self._last.wait()
        return self._ids[: push.count, 0], self._slopes[: push.count]

    def complete(self, push: Push) -> None:
        """Say that the trainer may use that memory again."""
        self._peer(push.trainer).complete(push.lease)

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def _peer(self, trainer: int) -> Peer:
        if trainer not in self._trainers:
            raise ValueError("that trainer has not said where it is")
        return self._connect(self._trainers[trainer])

    def _connect(self, trainer: _Trainer) -> Peer:
        if trainer.peer is None or not trainer.peer.alive:
            trainer.peer = self._engine.connect(trainer.descriptor, timeout=_CONNECT)
        return trainer.peer

    def _let_land(self) -> None:
        """A pull that failed may still write for a moment, where the next one's rows are to land."""
        deadline = time.monotonic() + _PULL
        while self._last is not None and not self._last.quiet:
            if time.monotonic() > deadline:
                raise kt.PullTimeout("the last push's pull failed, and still writes", operation="pull")
            time.sleep(0.001)


def read_note(note: Note) -> Hello | Push:
    """What a note announces; ValueError if it is none of ours."""
    kind = note.body[:1]
    if kind == b"H" and len(note.body) > _HELLO.size:
        return Hello(_HELLO.unpack_from(note.body)[1], note.body[_HELLO.size :])
    if kind != b"G" or len(note.body) != _PUSH.size:
        raise ValueError(f"{len(note.body)} bytes that begin with {kind!r}")
    _, trainer, step, slot, epoch, first, count = _PUSH.unpack(note.body)
    return Push(trainer, step, kt.LeaseRef(slot, epoch), first, count)


class WriteBack:
    """A trainer's side: slots of memory for the gradients of a step, leased until every store has applied its part."""

    def __init__(self, trainer: int, width: int, max_rows: int, slots: int, patience: float = PATIENCE) -> None:
        """`max_rows`: of one step. `patience`: seconds that a store may take to apply one."""
        self._trainer, self._max_rows, self._patience = trainer, max_rows, patience
        self._ids = kt.empty((slots * max_rows, 1), "int64")
        self._slopes = kt.empty((slots * max_rows, width), "float32")
        self._term = 10 * patience
        config = kt.EngineConfig(max_hold=2 * self._term)
        self._engine = kt.Engine(config, name=f"trainer-{trainer}-gradients")
        self._engine.publish(_map_of(self._engine, self._ids, self._slopes))
        self._lock = threading.RLock()
        self._free = list(range(slots))
        self._slot_leases: dict[int, set[tuple[int, int]]] = {}
        # By store, in order: what it has not yet applied.
        self._open: dict[int, dict[tuple[int, int], Push]] = {}
        self._peers: dict[int, Peer] = {}

    def greet(self, shard: int, peer: Peer) -> None:
        """Say hello to a store, and once more what it has not yet applied: a predecessor may not have."""
        with self._lock:
            self._peers[shard] = peer
            self._notify(shard, _HELLO.pack(b"H", self._trainer) + self._engine.descriptor())
            for push in self._open.setdefault(shard, {}).values():
                self._notify(shard, push.note())

    def push(self, step: int, shares: Sequence[tuple[int, Ints, Floats]], look: Callable[[], None]) -> None:
        """Hold a step's gradients ready for the stores, and tell them; waits while all slots are in use.

        Args:
            step: Its number; later ones are higher.
            shares: For each store that is concerned its number, ids, and their gradients.
            look: Called while it waits: notices stores that were replaced.
        """
        slot = self._take(look)
        first = slot * self._max_rows
        with self._lock:
            leases = self._slot_leases[slot] = set()
            for shard, ids, slopes in shares:
                rows = slice(first, first + len(ids))
                self._ids[rows, 0] = ids
                self._slopes[rows] = slopes
                # An owner's promise is given to a store, and ends when that store has applied it.
                # Only one whose clock runs is ended by that; the clock outlasts this class's own patience.
                lease = self._engine.grant([range(rows.start, rows.stop)], watermark=len(ids), term=self._term)
                leases.add((lease.slot, lease.epoch))
                push = Push(self._trainer, step, lease, rows.start, len(ids))
                self._open[shard][lease.slot, lease.epoch] = push
                self._notify(shard, push.note())
                first = rows.stop

    def drain(self, look: Callable[[], None]) -> None:
        """Wait until all that was pushed is applied."""
        self._wait(lambda: not any(self._open.values()), look)

    def _take(self, look: Callable[[], None]) -> int:
        self._wait(lambda: bool(self._free), look)
        return self._free.pop()

    def _wait(self, there: Callable[[], bool], look: Callable[[], None]) -> None:
        deadline = time.monotonic() + self._patience
        while True:
            self._forget_ended()
            if there():
                return
            if time.monotonic() > deadline:
                late = {shard: len(pushes) for shard, pushes in self._open.items() if pushes}
                raise TimeoutError(f"within {self._patience:g} s stores did not apply gradients (by store: {late})")
            look()
            time.sleep(0.0005)

    def _forget_ended(self) -> None:
        with self._lock:
            for end in self._engine.take_ended():
                if end.reason != "completed":
                    raise TimeoutError(f"gradients were not applied while they were promised: lease {end.reason}")
                key = (end.lease.slot, end.lease.epoch)
                for pushes in self._open.values():
                    pushes.pop(key, None)
                for slot, leases in list(self._slot_leases.items()):
                    leases.discard(key)
                    if not leases:
                        del self._slot_leases[slot]
                        self._free.append(slot)

    def _notify(self, shard: int, body: bytes) -> None:
        try:
            self._peers[shard].notify(body)
        except kt.PeerLost:
            return  # its successor will be greeted, and told

    def close(self) -> None:
        """Close the engine: leases that are left end."""
        self._engine.close()


def _map_of(engine: kt.Engine, ids: Ints, slopes: Floats) -> kt.TensorMap:
    axes = ("block", "element")
    return kt.TensorMap([engine.register_tensor("ids", ids, axes), engine.register_tensor("slopes", slopes, axes)])
