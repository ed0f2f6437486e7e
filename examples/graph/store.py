# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Processes that store rows: features, which stay, and embeddings, to which they apply the gradients of trainers."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtransfer import ConnectError, DigestMismatch, KVTransferError, PeerLost, PullTimeout, TransportError
from kvtransfer.rows import RowStore

from . import data
from .descent import descend, first_rows
from .offers import OfferFolder
from .stamps import stamps_of
from .write_back import Landing, Push, read_note

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from kvtransfer import Note

    from .data import Floats, Ints

_MAY_PASS = (ConnectError, DigestMismatch, PeerLost, PullTimeout, TransportError)
# Seconds in which a push is asked for again, which is what a trainer waits for it; and pushes at a time.
_ASK_AGAIN = 60.0
_MOST_LATER = 1024


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
        # What could not be pulled for a reason that may pass, and since when.
        self._later: list[tuple[Push, float]] = []
        self._turned = 0.0
        self.pushes = 0
        self._offers.put(settings.name, self._store.offer().to_bytes())

    def turn(self, seconds: float) -> None:
        """Apply what trainers have pushed, and offer the outcome; waits so long for a first push."""
        notes = self._store.engine.take_notes(seconds)
        self._turned = time.monotonic()
        again, self._later = self._later, []
        pushes = [*again, *((push, self._turned) for note in notes if (push := self._read(note)) is not None)]
        if not pushes:
            return
        rows, stamps = self._store.writable("rows"), self._store.writable("stamps")
        rows[self._behind] = self._store["rows"][self._behind]
        stamps[self._behind] = self._store["stamps"][self._behind]
        done, changed = [], []
        for push, since in pushes:
            if push.step > self._applied.get(push.trainer, -1):
                places = self._apply(push, since, rows)
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
            self._landing.complete(push)

    def _apply(self, push: Push, since: float, rows: Floats) -> Ints | None:
        """Pull a push and descend; the places of its rows, or None if it is not applied, or not yet."""
        if any(push.trainer == earlier.trainer for earlier, _ in self._later):
            # In order, for one that is older than what was applied counts as applied.
            self._ask_later(push, since, "an earlier one comes first")
            return None
        try:
            ids, slopes = self._landing.pull(push)
            places = self._checked(ids, slopes)
        except _MAY_PASS as error:
            self._ask_later(push, since, error)
            return None
        except (KVTransferError, ValueError) as error:
            self._say(push, f"is not taken: {error}")
            return None
        descend(rows, self._momentum, places, slopes, self._settings.rate, self._settings.momentum)
        self._applied[push.trainer] = push.step
        self.pushes += 1
        return places

    def _ask_later(self, push: Push, since: float, why: object) -> None:
        if self._turned - since > _ASK_AGAIN or len(self._later) >= _MOST_LATER:
            self._say(push, f"is not taken: {why}")
            return
        if since == self._turned:  # said once
            self._say(push, f"is asked for again: {why}")
        self._later.append((push, since))

    def _say(self, push: Push, what: str) -> None:
        print(f"{self._settings.name}: push {push.step} of trainer {push.trainer} {what}")

    def _read(self, note: Note) -> Push | None:
        try:
            return read_note(note, self._landing)
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
