# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Processes that store rows: features, which stay, and embeddings, to which they apply the gradients of trainers."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtransfer import (
    ConnectError,
    DigestMismatch,
    KVTransferError,
    LaneError,
    LeaseExpired,
    MismatchError,
    PeerLost,
    PullTimeout,
    TransportError,
)
from kvtransfer.rows import RowStore

from . import data
from .backlog import Backlog
from .descent import descend, first_rows
from .offers import OfferFolder
from .stamps import stamps_of
from .write_back import PATIENCE, Landing, Push, read_note

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from kvtransfer import Note

    from .data import Floats, Ints

_PAUSE = 1.0  # seconds until a push is asked for again
_MOST_LATER = 1024  # pushes


def _may_pass(error: Exception) -> bool:
    """Whether the same pull may end well later: not where both ends are reached, and do not go together."""
    passing = (ConnectError, DigestMismatch, PeerLost, PullTimeout, TransportError)
    return isinstance(error, passing) and not isinstance(error, (MismatchError, LaneError))


def shard_ids(nodes: int, shard: int, shards: int) -> range:
    """The ids that one of several stores keeps."""
    return range(nodes * shard // shards, nodes * (shard + 1) // shards)


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """What a store is told; plain data.

    Attributes:
        folder: Where stores and trainers meet.
        name: Under which it offers its rows.
        nodes: Ids of the whole matrix.
        shard: Which part of them it keeps.
        shards: Of how many.
        width: Floats of a row; of an embedding, two vectors.
        seed: Of rows that are drawn.
        stamped: Keep a stamp for each row.
        parent: The process whose end is this one's; 0: none.
    """

    folder: Path
    name: str
    nodes: int
    shard: int
    shards: int
    width: int
    seed: int = 0
    stamped: bool = False
    parent: int = 0

    @property
    def ids(self) -> range:
        """Ids of its rows."""
        return shard_ids(self.nodes, self.shard, self.shards)

    @property
    def offers(self) -> OfferFolder:
        """The folder where it offers them."""
        return OfferFolder(self.folder)

    def stopped(self) -> bool:
        """Whether it is to end: told so, or the process that started it is gone."""
        return (self.folder / "stop").exists() or (self.parent > 0 and os.getppid() != self.parent)


@dataclass(frozen=True, kw_only=True)
class FeatureSettings(StoreSettings):
    """Features are mapped from a file, of which only this store's rows are read; or drawn, where there is none."""

    rows_file: Path | None = None


@dataclass(frozen=True, kw_only=True)
class EmbeddingSettings(StoreSettings):
    """How embeddings are changed.

    Attributes:
        rate: Of a step of SGD.
        momentum: How much of the last step is in the next.
        max_rows: Rows of one push, at most.
        keep_every: Pushes after which all is written to disk, for a successor.
    """

    rate: float
    momentum: float
    max_rows: int
    keep_every: int = 64


def serve_features(settings: FeatureSettings) -> None:
    """Offer features until told to stop."""
    ids = np.arange(settings.ids.start, settings.ids.stop, dtype=np.int64)
    if settings.rows_file is None:
        rows = data.drawn_rows(ids, settings.width, settings.seed)
    else:
        rows = np.load(settings.rows_file, mmap_mode="r")[settings.ids.start : settings.ids.stop]
    matrices: dict[str, npt.NDArray[Any]] = {"rows": rows}
    if settings.stamped:
        matrices["stamps"] = stamps_of(ids, rows)
    with RowStore(matrices, ids=settings.ids, name=settings.name) as store:
        del rows, matrices
        settings.offers.put(settings.name, store.offer().to_bytes())
        while not settings.stopped():
            time.sleep(0.05)


def serve_embeddings(settings: EmbeddingSettings) -> None:
    """Offer embeddings, and a new generation whenever trainers have pushed gradients, until told to stop."""
    with EmbeddingStore(settings) as store:
        while not settings.stopped():
            store.turn(0.05)


class EmbeddingStore:
    """Embeddings and their momentum for some ids. Readers have one generation while the next is written."""

    def __init__(self, settings: EmbeddingSettings) -> None:
        """Go on from what a predecessor has kept, or begin anew."""
        self._settings = settings
        self._offers = settings.offers
        self._kept = settings.folder / f"{settings.name}.npz"
        ids = np.arange(settings.ids.start, settings.ids.stop, dtype=np.int64)
        self._ids = ids
        # By trainer the last of its pushes that is in the rows: none is applied twice.
        self._applied: dict[int, int] = {}
        if self._kept.exists():
            with np.load(self._kept) as kept:
                rows, self._momentum = kept["rows"], kept["momentum"]
                self._applied = {int(trainer): int(step) for trainer, step in kept["applied"]}
        else:
            rows = first_rows(ids, settings.width // 2, settings.seed)
            self._momentum = np.zeros_like(rows)
        self._store = RowStore(
            {"rows": rows, "stamps": stamps_of(ids, rows)}, ids=settings.ids, generations=2, name=settings.name
        )
        # What this generation has and the other half has not.
        self._behind = ids - settings.ids.start
        self._landing = Landing(settings.name, settings.width, settings.max_rows)
        self._since_kept = 0
        self._backlog = Backlog(PATIENCE, _PAUSE, _MOST_LATER)
        self._refused: set[int] = set()  # trainers of which something was not taken
        self.pushes = 0
        self._offers.put(settings.name, self._store.offer().to_bytes())

    def turn(self, seconds: float) -> None:
        """Apply what trainers have pushed, and offer the outcome; waits so long for a first push."""
        notes = self._store.engine.take_notes(seconds)
        self._take([push for note in notes if (push := self._read(note)) is not None])
        # Afterwards and by itself: what cannot be had keeps nobody's completion waiting.
        self._take(self._backlog.take_due(time.monotonic()))

    def _take(self, pushes: list[Push]) -> None:
        """Apply those that can be, in the generation that nobody reads, and offer it."""
        if not pushes:
            return
        rows, stamps = self._store.writable("rows"), self._store.writable("stamps")
        rows[self._behind] = self._store["rows"][self._behind]
        stamps[self._behind] = self._store["stamps"][self._behind]
        done, changed = [], []
        for push in pushes:
            if push.step > self._applied.get(push.trainer, -1):
                places = self._apply(push, rows)
                if places is None:
                    continue
                changed.append(places)
            done.append(push)
        if changed:
            self._behind = np.unique(np.concatenate(changed))
            stamps[self._behind] = stamps_of(self._ids[self._behind], rows[self._behind])
            # The old generation ends here: who still reads it is told so, and asks again.
            self._offers.put(self._settings.name, self._store.swap().to_bytes())
            self._since_kept += len(changed)
            if self._since_kept >= self._settings.keep_every:
                self._keep()
        for push in done:
            self._complete(push)

    def _apply(self, push: Push, rows: Floats) -> Ints | None:
        """Pull a push and descend; the places of its rows, or None if it is not applied, or not yet."""
        # In order, and none after one that was refused: whatever is older than what was applied counts as applied.
        if push.trainer in self._refused:
            self._say(push, "is not taken: an earlier one was not")
            return None
        if self._backlog.holds(push.trainer):
            self._postpone(push, "an earlier one comes first")
            return None
        try:
            ids, slopes = self._landing.pull(push)
            places = self._checked(ids, slopes)
        except LeaseExpired as error:
            # Its trainer knows: told to a successor, it may be what the predecessor has completed.
            self._say(push, f"is not taken: {error}")
            return None
        except (KVTransferError, ValueError) as error:
            (self._postpone if _may_pass(error) else self._refuse)(push, error)
            return None
        self._backlog.clear(push.trainer)
        descend(rows, self._momentum, places, slopes, self._settings.rate, self._settings.momentum)
        self._applied[push.trainer] = push.step
        self.pushes += 1
        return places

    def _postpone(self, push: Push, why: object) -> None:
        first = not self._backlog.knows(push.trainer)
        if not self._backlog.put(push, time.monotonic()):
            self._refuse(push, why)
        elif first:
            self._say(push, f"is asked for again: {why}")

    def _refuse(self, push: Push, why: object) -> None:
        """Its trainer notices, as nothing of it is completed any more; one that comes anew is heard."""
        if push.trainer in self._landing.trainers:
            self._refused.add(push.trainer)
        self._backlog.clear(push.trainer)
        self._say(push, f"is not taken: {why}")

    def _complete(self, push: Push) -> None:
        try:
            self._landing.complete(push)
        except (KVTransferError, ValueError) as error:
            self._say(push, f"is applied, and its trainer could not be told: {error}")

    def _say(self, push: Push, what: str) -> None:
        print(f"{self._settings.name}: push {push.step} of trainer {push.trainer} {what}")

    def _read(self, note: Note) -> Push | None:
        """What a note announces; who says hello is connected to."""
        try:
            said = read_note(note)
            if isinstance(said, Push):
                return said
            self._refused.discard(said.trainer)
            self._landing.meet(said)
            self._refused.intersection_update(self._landing.trainers)
        except ConnectError as error:
            print(f"{self._settings.name}: {note.reader!r} is not reached yet: {error}")
        except (KVTransferError, ValueError) as error:
            print(f"{self._settings.name}: a note of {note.reader!r} is not understood: {error}")
        return None

    def _checked(self, ids: Ints, slopes: Floats) -> Ints:
        places = ids - self._settings.ids.start
        if len(np.unique(places)) != len(places) or places.min() < 0 or places.max() >= len(self._ids):
            raise ValueError(f"its ids are not distinct ones of {self._settings.ids}")
        if not np.isfinite(slopes).all():
            raise ValueError("it has gradients that are no numbers")
        return places

    def _keep(self) -> None:
        part = self._kept.with_suffix(".part.npz")
        applied = np.array(sorted(self._applied.items()), np.int64).reshape(-1, 2)
        np.savez(part, rows=self._store["rows"], momentum=self._momentum, applied=applied)
        part.replace(self._kept)
        self._since_kept = 0

    def __enter__(self) -> EmbeddingStore:
        """The store itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close its engines."""
        self._landing.close()
        self._store.close()
