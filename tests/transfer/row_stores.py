# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Stores of rows in other processes, and readers, for tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest

from kvtransfer.rows import RowOffer, RowReader

from .harness import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    Reading = Callable[..., RowReader]


ROWS, SEED = 3000, 7
HALVES = [range(1700), range(1700, ROWS)]
SPLITS = {
    "one": [range(ROWS)],
    "two": HALVES,
    "three": [range(100), range(100, 101), range(101, ROWS)],
    "every third": [range(first, ROWS, 3) for first in range(3)],
    "a gap": [range(1000, 2000), range(500)],
}


@dataclass
class Store:
    """One in another process."""

    process: Process
    number: int

    def call(self, do: str, **arguments: object) -> Any:  # noqa: ANN401
        return self.process.call(do, store=self.number, **arguments)

    def offer(self) -> bytes:
        return bytes.fromhex(self.call("offer"))

    def swap(self, seed: int) -> bytes:
        return bytes.fromhex(self.call("swap", rows=ROWS, seed=seed))


class Stores(Protocol):
    def __call__(self, ids: Sequence[range], **options: object) -> tuple[list[Store], list[bytes]]: ...


@pytest.fixture(scope="module")
def row_processes() -> Iterator[list[Process]]:
    """Two for the stores of all tests here: starting one takes longer than most of them."""
    started = [Process(module="transfer.row_store") for _ in range(2)]
    yield started
    for process in started:
        process.stop()


@pytest.fixture
def stores(row_processes: list[Process]) -> Iterator[Stores]:
    """Starts stores in other row_processes, in turn, and closes them."""
    started: list[Store] = []

    def start(ids: Sequence[range], **options: object) -> tuple[list[Store], list[bytes]]:
        for index, one in enumerate(ids):
            process = row_processes[index % len(row_processes)]
            bounds = [one.start, one.stop, one.step]
            number = process.call("start", rows=ROWS, ids=bounds, **{"seed": SEED, **options})
            started.append(Store(process, number))
        return started[-len(ids) :], [store.offer() for store in started[-len(ids) :]]

    yield start
    for store in started:
        store.call("close")


@pytest.fixture
def reading() -> Iterator[Reading]:
    """Makes readers, and closes them."""
    made: list[RowReader] = []

    def make(offers: Sequence[bytes | RowOffer], **options: Any) -> RowReader:  # noqa: ANN401
        made.append(RowReader(offers, **{"max_rows": 4000, "name": "reader", **options}))
        return made[-1]

    yield make
    for reader in made:
        reader.close()


def some_ids(ranges: Sequence[range], count: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Ids that these have, in no order, some of them several times."""
    return np.random.default_rng(seed).choice(np.concatenate([np.array(one) for one in ranges]), count)
