# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A store of rows in a process of its own; commands as in agent.py."""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

import kvtransfer as kt
from kvtransfer import testing
from kvtransfer.rows import RowOffer, RowReader, RowStore

from .agent import serve
from .layout import RDMA_HERE

FEATURES, WIDTH = "features", 25
LABELS = "labels"


def features(seed: int, rows: int) -> npt.NDArray[np.uint32]:
    """All stores' rows; (rows, WIDTH)."""
    return np.random.default_rng(seed).integers(1 << 32, size=(rows, WIDTH), dtype=np.uint32)


def labels(seed: int, rows: int) -> npt.NDArray[np.int64]:
    """The same; (rows, 1)."""
    return np.random.default_rng(seed + 1).integers(1 << 60, size=(rows, 1), dtype=np.int64)


class Stores:
    """Holds stores; every public method is a command."""

    def __init__(self) -> None:
        testing.rdma_over(RDMA_HERE)
        self._stores: list[RowStore | None] = []
        self._storm: threading.Thread | None = None
        self._calm = threading.Event()

    def start(self, rows: int, ids: list[int], seed: int, generations: int = 1, **config: Any) -> int:  # noqa: ANN401
        """A store of some of `rows` rows; its number."""
        here = slice(*ids)
        store = RowStore(
            {FEATURES: features(seed, rows)[here], LABELS: labels(seed, rows)[here, 0]},
            ids=range(*ids),
            generations=generations,
            name="store",
            config=kt.EngineConfig(**config),
        )
        self._stores.append(store)
        return len(self._stores) - 1

    def start_large(self, rows: int) -> int:
        """Rows of one byte; nothing is written to them."""
        self._stores.append(RowStore({FEATURES: (rows, 1, np.uint8)}, name="store"))
        return len(self._stores) - 1

    def offer(self, store: int) -> str:
        return self._store(store).offer().to_bytes().hex()

    def swap(self, store: int, rows: int, seed: int) -> str:
        """The next generation, of another seed."""
        known = self._store(store)
        here = slice(known.ids.start, known.ids.stop, known.ids.step)
        known.writable(FEATURES)[:] = features(seed, rows)[here]
        known.writable(LABELS)[:] = labels(seed, rows)[here]
        return known.swap().to_bytes().hex()

    def withdraw(self, store: int) -> None:
        self._store(store).withdraw()

    def begin_storm(self, store: int, *, in_place: bool) -> None:
        """Until `end_storm`, fill all rows with a number after the other: as generations, or as one should not."""
        known = self._store(store)

        def write() -> None:
            number, pauses = 0, np.random.default_rng(3)
            while not self._calm.is_set():
                number += 1
                known.writable(FEATURES)[:] = number
                if not in_place:
                    known.swap()
                    # For some gathers long enough, for others not.
                    self._calm.wait(pauses.uniform(0, 0.1))

        self._calm.clear()
        self._storm = threading.Thread(target=write)
        self._storm.start()

    def end_storm(self, store: int) -> None:
        del store
        if self._storm is not None:
            self._calm.set()
            self._storm.join()
            self._storm = None

    def learn(self, store: int, gradients: str, batches: int) -> int:
        """Add what a trainer notes that it has to the rows that it names, as a new generation each; bytes pulled."""
        known, offer = self._store(store), RowOffer.from_bytes(bytes.fromhex(gradients))
        pulled = 0
        with RowReader([offer], max_rows=len(offer.ids)) as reader:
            while batches > 0:
                for note in known.engine.take_notes(timeout=30):
                    said = json.loads(note.body)
                    with reader.gather(range(said["first"], said["first"] + said["count"])).wait(30) as slot:
                        pulled += slot.result().bytes
                        known.writable(FEATURES)[:] = known[FEATURES]
                        known.writable(LABELS)[:] = known[LABELS]
                        rows = slot["ids"][:, 0] - known.ids.start
                        np.add.at(known.writable(FEATURES), rows, slot["gradients"])
                    reader.peers[0].notify(known.swap().renewal())
                    batches -= 1
        return pulled

    def counters(self, store: int) -> dict[str, int]:
        return self._store(store).engine.counters()

    def close(self, store: int) -> None:
        self.end_storm(store)
        self._store(store).close()
        self._stores[store] = None  # lets the memory go

    def stall_next_pull(self, store: int, file: str) -> None:
        del store
        testing.stall_next_pull(file)

    def _store(self, number: int) -> RowStore:
        store = self._stores[number]
        assert store is not None, "it was closed"
        return store


if __name__ == "__main__":
    serve(Stores)
