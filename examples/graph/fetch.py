# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Rows by id, wherever they lie, and fetching them ahead of the training that uses them."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from kvtransfer import ConnectError, LeaseExpired, PeerLost
from kvtransfer.rows import RowReader

from .offers import LOOK
from .stamps import check_stamps

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from kvtransfer import Peer
    from kvtransfer.rows import RowSlot

    from .data import Floats, Ints
    from .offers import OfferFolder

Work = TypeVar("Work")


@dataclass
class Clock:
    """What was done when, for the picture: (kind, step, begin, end), in seconds of `time.perf_counter`."""

    spans: list[tuple[str, int, float, float]] = field(default_factory=list)

    def note(self, kind: str, step: int, begin: float, end: float | None = None) -> float:
        """Add a span that ends now, or at `end`; its end."""
        end = time.perf_counter() if end is None else end
        self.spans.append((kind, step, begin, end))
        return end

    def seconds(self, kind: str) -> float:
        """All spans of a kind together."""
        return sum(end - begin for name, _, begin, end in self.spans if name == kind)


class Fetch(Protocol):
    """Rows that are on their way."""

    def wait(self) -> Floats:
        """The rows, once they are there; good until `release`."""

    def release(self) -> None:
        """They are needed no more. Idempotent."""

    @property
    def seconds(self) -> float:
        """How long they took, once they are there."""


class Source(Protocol):
    """Where rows come from."""

    def begin(self, ids: Ints) -> Fetch:
        """Begin to fetch these, in this order."""

    def close(self) -> None:
        """Let go of everything."""


class LocalRows:
    """Rows in this process's own memory."""

    def __init__(self, rows: Floats) -> None:
        """Serve these."""
        self._rows = rows

    def begin(self, ids: Ints) -> Fetch:
        """Copy them at once."""
        begin = time.perf_counter()
        return Here(self._rows[ids], time.perf_counter() - begin)

    def close(self) -> None:
        """Nothing to do."""


@dataclass
class Here:
    """Rows that are there already."""

    rows: Floats
    seconds: float

    def wait(self) -> Floats:
        """Them."""
        return self.rows

    def release(self) -> None:
        """Nothing to do."""


class StoreRows:
    """Rows of stores, which may be replaced, or put up new generations, at any time. Thread-safe."""

    def __init__(
        self,
        offers: OfferFolder,
        names: Sequence[str],
        *,
        max_rows: int,
        slots: int,
        check: bool = False,
        patience: float = 60.0,
        greet: Callable[[int, Peer], None] | None = None,
        lanes: Sequence[str] | None = None,
    ) -> None:
        """Connect to the stores of these names.

        Args:
            offers: Where they say how they are reached.
            names: In the order of their ids.
            max_rows: Rows of one fetch, at most.
            slots: Fetches that may be under way or in use at a time.
            check: Read each row's stamp too, and check it.
            patience: Seconds that a store may take to come, or to come back.
            greet: Called with a store's number and its engine, for each store that was connected to.
            lanes: Permit only these.
        """
        self._offers, self._names, self._patience, self._greet = offers, names, patience, greet
        self._lock = threading.Lock()
        self._check = check
        self.checked = 0
        self.retries = 0
        self.replaced = 0
        self._reader = self._connected(max_rows, slots, lanes)
        self._met = [0] * len(names)
        self._meet()

    def _connected(self, max_rows: int, slots: int, lanes: Sequence[str] | None) -> RowReader:
        """A reader of all stores; what lies there may be of one that has just died, and whose successor comes."""
        deadline = self.deadline()
        matrices = ("rows", "stamps") if self._check else ("rows",)
        while True:
            bodies = [self._offers.wait(name, self._patience) for name in self._names]
            try:
                return RowReader(bodies, max_rows=max_rows, slots=slots, matrices=matrices, lanes=lanes)
            except ConnectError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(LOOK)
            for name in self._names:
                self._offers.forget(name)

    @property
    def peers(self) -> tuple[Peer, ...]:
        """The stores' engines."""
        return self._reader.peers

    def begin(self, ids: Ints) -> StoreFetch:
        """Begin to gather these, from the newest generation of each store."""
        self.renew()
        return StoreFetch(self, ids)

    def renew(self) -> None:
        """Take what stores have offered since the last time; the rest is asked for again later."""
        with self._lock:
            for shard, name in enumerate(self._names):
                body = self._offers.news(name)
                if body is not None:
                    try:
                        self._reader.replace(shard, body)
                    except ConnectError:
                        self._offers.forget(name)  # of one that is gone, or is not yet up to it
            self._meet()

    def _meet(self) -> None:
        for shard, peer in enumerate(self._reader.peers):
            if peer.alive and self._met[shard] != peer.incarnation:
                self.replaced += self._met[shard] != 0
                self._met[shard] = peer.incarnation
                if self._greet is not None:
                    self._greet(shard, peer)

    def slot(self, ids: Ints, deadline: float) -> RowSlot:
        """A gather that has begun; waits for stores that are gone to come back, until the deadline."""
        while True:
            try:
                return self._reader.gather(ids)
            except PeerLost:
                if time.monotonic() > deadline:
                    raise
                self.retries += 1
                time.sleep(LOOK)
                self.renew()

    def deadline(self) -> float:
        """Until when to wait for a store, from now."""
        return time.monotonic() + self._patience

    def checked_rows(self, ids: Ints, slot: RowSlot) -> Floats:
        """The rows of a gather that has ended well."""
        rows: Floats = slot["rows"]
        if self._check:
            check_stamps(ids, rows, slot["stamps"])
            self.checked += len(ids)
        return rows

    def close(self) -> None:
        """Close the reader."""
        self._reader.close()


class StoreFetch:
    """One gather, which is begun again where a store was replaced or has put up another generation."""

    def __init__(self, source: StoreRows, ids: Ints) -> None:
        """Begin."""
        self._source, self._ids = source, ids
        self._begun = time.perf_counter()
        self._slot: RowSlot | None = source.slot(ids, source.deadline())
        self._seconds = 0.0

    @property
    def seconds(self) -> float:
        """From the first try to the last byte."""
        return self._seconds

    def wait(self) -> Floats:
        """The rows; of one generation of each store."""
        deadline = self._source.deadline()
        while True:
            if self._slot is None:
                self._slot = self._source.slot(self._ids, deadline)
            tried = self._slot
            try:
                result = tried.wait().result()
                rows = self._source.checked_rows(self._ids, tried)
            except (LeaseExpired, PeerLost):
                if time.monotonic() > deadline:
                    raise
                self._source.retries += 1
                self.release()
                self._source.renew()
            else:
                self._seconds = result.seconds
                return rows

    def release(self) -> None:
        """Give the slot back."""
        if self._slot is not None:
            self._slot.release()
            self._slot = None


@dataclass
class Ready(Generic[Work]):
    """A step whose rows are on their way, or there."""

    step: int
    work: Work
    ids: Ints
    fetch: Fetch
    begun: float


def prefetched(
    works: Iterable[tuple[Work, Ints]], source: Source, depth: int, clock: Clock
) -> Iterator[tuple[int, Work, Floats]]:
    """Each step's work and rows; the next `depth` are drawn and fetched meanwhile, by a thread.

    Rows are good until the next step is asked for. A source of `depth + 2` slots always has one free. With depth 0
    nothing happens ahead.
    """
    begun = _begun(works, source, clock)
    ahead = _Ahead(begun, depth) if depth else begun
    try:
        for ready in ahead:
            waited = time.perf_counter()
            try:
                rows = ready.fetch.wait()
                clock.note("wait", ready.step, waited)
                clock.note("fetch", ready.step, ready.begun, ready.begun + ready.fetch.seconds)
                yield ready.step, ready.work, rows
            finally:
                ready.fetch.release()
    finally:
        ahead.close()


def _begun(works: Iterable[tuple[Work, Ints]], source: Source, clock: Clock) -> Generator[Ready[Work], None, None]:
    """Draw, and begin to fetch."""
    drawn = iter(works)
    step = 0
    while True:
        begin = time.perf_counter()
        try:
            work, ids = next(drawn)
        except StopIteration:
            return
        begun = clock.note("sample", step, begin)
        yield Ready(step, work, ids, source.begin(ids), begun)
        step += 1


class _Ahead(Generic[Work]):
    """Steps that a thread makes ahead; what goes wrong there is raised where they are used."""

    def __init__(self, steps: Generator[Ready[Work], None, None], depth: int) -> None:
        self._steps = steps
        self._made: queue.Queue[Ready[Work] | BaseException | None] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._make, name="prefetch", daemon=True)
        self._thread.start()

    def _make(self) -> None:
        try:
            for ready in self._steps:
                self._put(ready)
                if self._stop.is_set():
                    return
            self._put(None)
        except BaseException as error:  # noqa: BLE001  (raised again where the steps are used)
            self._put(error)

    def _put(self, item: Ready[Work] | BaseException | None) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._made.put(item, timeout=0.1)
                return
        if isinstance(item, Ready):
            item.fetch.release()

    def __iter__(self) -> Iterator[Ready[Work]]:
        while (item := self._made.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """End the thread, and release what nobody will use."""
        self._stop.set()
        self._thread.join()
        while not self._made.empty():
            left = self._made.get_nowait()
            if isinstance(left, Ready):
                left.fetch.release()
