# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Rows of several stores, gathered into slots of one's own."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from kvtransfer._native import core
from kvtransfer.engine import Engine
from kvtransfer.errors import ConfigError, InvalidState, PullTimeout
from kvtransfer.memory import empty
from kvtransfer.parts import Part, gather

from .ids import IdRanges
from .offer import Matrix, RowOffer
from .slot import RowSlot

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    import numpy.typing as npt

    from kvtransfer.arrays import IntArray
    from kvtransfer.config import EngineConfig
    from kvtransfer.peer import Peer
    from kvtransfer.pull import Pull

# How often a slot whose pull failed is looked at, until nothing can land in it any more.
_LOOK = 0.002


class _Store(NamedTuple):
    peer: Peer
    offer: RowOffer


class RowReader:
    """Gathers rows by id from stores; thread-safe, and a context manager that closes its engine."""

    def __init__(
        self,
        offers: Sequence[RowOffer | bytes],
        *,
        max_rows: int,
        slots: int = 2,
        matrices: Iterable[str] | None = None,
        lanes: Sequence[str] | None = None,
        connect_timeout: float = 10.0,
        name: str = "",
        config: EngineConfig | None = None,
    ) -> None:
        """Connect to all stores, and set memory for the slots aside.

        Args:
            offers: One of each store, or what its `to_bytes` gave. All have the same matrices.
            max_rows: Rows that one gather can have.
            slots: Gathers that can be under way or in use at a time. They take `slots * max_rows` rows of memory.
            matrices: Read only these; all unless given.
            lanes: Permit only these, best first; the config's unless given.
            connect_timeout: Seconds to connect to a store.
            name: The engine's, for stores and logs.
            config: Its settings.

        Raises:
            CodecError: An offer does not decode.
            ConfigError: Another argument is bad, or stores differ in their matrices.
            ConnectError: A store could not be reached, or refused us.
            TransportError: The kernel has not so much memory to share.
        """
        for what, count in (("max_rows", max_rows), ("slots", slots)):
            if count < 1:
                raise ConfigError(f"{what}={count}: expected 1 at least", operation="RowReader")
        known = [_offer(one) for one in offers]
        self._ranges = IdRanges([one.ids for one in known])
        self._matrices = _chosen(known[0].matrices, matrices)
        for shard, one in enumerate(known):
            self._check(shard, one)
        # An offer is from outside: what it says of its rows must not take all memory there is.
        wanted = slots * max_rows * sum(matrix.row_bytes for matrix in self._matrices)
        if wanted > (there := os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")):
            raise ConfigError(
                f"{slots} slots of {max_rows} rows are {wanted} bytes, this host has {there}",
                operation="RowReader",
                hint="Have fewer or smaller slots, or read fewer matrices",
            )
        self._max_rows, self._count = max_rows, slots
        self._lanes, self._connect_timeout = lanes, connect_timeout
        self._lock = threading.Lock()
        self._free = list(range(slots))[::-1]
        self._draining: list[tuple[int, Pull]] = []
        self._engine = Engine(config, name=name)
        try:
            self._memory: dict[str, npt.NDArray[Any]] = {}
            components = []
            for table, matrix in enumerate(self._matrices):
                memory = empty((slots * max_rows, matrix.width), matrix.dtype)
                self._memory[matrix.name] = memory
                components.append(self._engine.register_tensor(matrix.name, memory, ("block", "element"), table=table))
            self._engine.publish(core.TensorMap(components))
            self._stores = [_Store(self._connected(shard, one), one) for shard, one in enumerate(known)]
        except BaseException:
            self._engine.close()
            raise

    @property
    def engine(self) -> Engine:
        """What reads the rows: for counters."""
        return self._engine

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """What is read of each row."""
        return self._matrices

    @property
    def peers(self) -> tuple[Peer, ...]:
        """The stores' engines, in the order of the offers: for lanes, and to notify them."""
        return tuple(store.peer for store in self._stores)

    @property
    def lost(self) -> tuple[int, ...]:
        """Numbers of the stores that are gone, and wait for `replace`."""
        return tuple(shard for shard, store in enumerate(self._stores) if not store.peer.alive)

    def gather(self, ids: IntArray, matrices: Iterable[str] | None = None, *, timeout: float = 30.0) -> RowSlot:
        """Begin to read rows into a free slot; returns at once.

        Args:
            ids: 1-D integers, in any order; an id may be there several times. `max_rows` at most; none is no error.
            matrices: Read only these; all that the reader has unless given.
            timeout: Seconds until it fails with PullTimeout.

        Raises:
            PlanError: `ids` are no array of integers, too many, or one that no store has.
            ConfigError: There is no such matrix.
            InvalidState: Every slot is in use.
            PeerLost: A store that has some of the rows is gone; `replace` it.
        """
        wanted = self._matrices if matrices is None else _chosen(self._matrices, matrices)
        tables = [matrix in wanted for matrix in self._matrices]
        count, shares = self._ranges.split(ids)
        if count > self._max_rows:
            raise ConfigError(
                f"{count} ids, this reader's slots have room for {self._max_rows}",
                operation="gather",
                hint="Raise max_rows, or gather in several",
            )
        number = self._take(timeout)
        base = number * self._max_rows
        stores = self._stores
        try:
            # One for each store, so that what is said of a part has the store's number; most may be empty.
            parts = [Part(store.peer, store.offer.lease, (), (), 0) for store in stores]
            for share in shares:
                store = stores[share.shard]
                rows = share.rows + store.offer.first if store.offer.first else share.rows
                places = share.places + base if base else share.places
                parts[share.shard] = parts[share.shard]._replace(
                    remote=[rows], local=[places if chosen else None for chosen in tables], stop=len(rows)
                )
            pull = gather(parts, timeout=timeout)
        except BaseException:
            self._give_back(number)
            raise
        views = {matrix.name: self._memory[matrix.name][base : base + count] for matrix in wanted}
        return RowSlot(count, pull, views, lambda: self._release(number, pull))

    def replace(self, shard: int, offer: RowOffer | bytes) -> None:
        """Read a store's rows from its successor, or its next generation, from now on.

        What is under way from the generation before goes on, and fails where that is revoked. An engine that another
        one replaces is left at once: what is under way from it fails.

        Args:
            shard: Which of the stores.
            offer: Of the same ids and matrices.

        Raises:
            CodecError: The offer does not decode.
            ConfigError: There is no such store, or the offer is of other rows.
            ConnectError: The successor could not be reached, or refused us.
        """
        known = _offer(offer)
        if not 0 <= shard < len(self._stores):
            raise ConfigError(f"there is no store {shard}, they are 0 to {len(self._stores) - 1}", operation="replace")
        before = self._stores[shard]
        if known.ids != before.offer.ids:
            raise ConfigError(f"store {shard} has ids {before.offer.ids}, not {known.ids}", operation="replace")
        self._check(shard, known)
        peer = before.peer
        if peer.incarnation != known.incarnation or not peer.alive:
            peer = self._connected(shard, known)
        else:
            _check_rows(peer, known)
        with self._lock:
            stores = list(self._stores)
            stores[shard] = _Store(peer, known)
            self._stores = stores
        if peer is not before.peer:
            before.peer.close()

    def close(self) -> None:
        """Fail what is under way, and let the memory go; views that are still used keep theirs. Idempotent."""
        self._engine.close()

    def __enter__(self) -> Self:
        """The reader itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _check(self, shard: int, offer: RowOffer) -> None:
        theirs = {matrix.name: matrix for matrix in offer.matrices}
        for matrix in self._matrices:
            if theirs.get(matrix.name) != matrix:
                raise ConfigError(
                    f"store {shard} offers {theirs.get(matrix.name, 'nothing')} where {matrix} is to be read",
                    operation="RowReader",
                )

    def _connected(self, shard: int, offer: RowOffer) -> Peer:
        peer = self._engine.connect(offer.descriptor, lanes=self._lanes, timeout=self._connect_timeout)
        if peer.incarnation != offer.incarnation:
            peer.close()
            raise ConfigError(f"the offer of store {shard} has another engine's descriptor", operation="RowReader")
        _check_rows(peer, offer)
        return peer

    def _take(self, timeout: float) -> int:
        """A free slot's number; waits only for pulls that have failed, and are not quiet yet."""
        deadline = time.monotonic() + timeout
        while True:
            with self._lock:
                draining, self._draining = self._draining, []
                for number, pull in draining:
                    # Asked once: a pull that fell quiet between two questions would be neither, and its slot lost.
                    if pull.quiet:
                        self._free.append(number)
                    else:
                        self._draining.append((number, pull))
                if self._free:
                    return self._free.pop()
                waits = bool(self._draining)
            if not waits:
                raise InvalidState(
                    f"all {self._count} slots are in use", operation="gather", hint="release() one, or have more slots"
                )
            if time.monotonic() >= deadline:
                raise PullTimeout("a slot's last gather failed, and still writes to it", operation="gather")
            time.sleep(_LOOK)

    def _release(self, number: int, pull: Pull) -> None:
        if not pull.done:
            pull.cancel()
        if pull.quiet:
            self._give_back(number)
            return
        with self._lock:
            self._draining.append((number, pull))

    def _give_back(self, number: int) -> None:
        with self._lock:
            self._free.append(number)


def _offer(offer: RowOffer | bytes) -> RowOffer:
    return offer if isinstance(offer, RowOffer) else RowOffer.from_bytes(offer)


def _chosen(known: tuple[Matrix, ...], names: Iterable[str] | None) -> tuple[Matrix, ...]:
    if names is None:
        return known
    wanted = [names] if isinstance(names, str) else list(names)
    there = {matrix.name for matrix in known}
    if not wanted or not there.issuperset(wanted):
        raise ConfigError(f"matrices={wanted}: expected some of {', '.join(sorted(there))}", operation="RowReader")
    return tuple(matrix for matrix in known if matrix.name in wanted)


def _check_rows(peer: Peer, offer: RowOffer) -> None:
    """An offer's rows are the map's; where they are not, pulls would say so, less clearly."""
    last = offer.first + len(offer.ids)
    for component in peer.map.components:
        blocks = next((axis.extent for axis in component.axes if axis.name == "block"), 0)
        if component.name in {matrix.name for matrix in offer.matrices} and last > blocks:
            raise ConfigError(
                f"an offer of rows up to {last}, and {component.name!r} has {blocks}",
                operation="RowReader",
                peer=peer.name,
            )
