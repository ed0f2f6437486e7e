# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Which rows there are, and which are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

STORES = 2


@dataclass(frozen=True, slots=True)
class Workload:
    """Gathers of `wanted` rows of `width` floats, of `rows` that two stores have half each of."""

    rows: int
    width: int
    wanted: int

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.wanted} x {4 * self.width} B"

    def ids_of(self, store: int) -> range:
        """What one of the stores has."""
        half = self.rows // STORES
        return range(half) if store == 0 else range(half, self.rows)

    def features(self, ids: range) -> npt.NDArray[np.float32]:
        """Rows that differ in every element from all others."""
        first = np.arange(ids.start, ids.stop, dtype=np.uint32)[:, None] * np.uint32(self.width)
        # Any bits that are no NaN: what is compared is numbers.
        return (first + np.arange(self.width, dtype=np.uint32)).view(np.float32)

    def ids(self, number: int) -> npt.NDArray[np.int64]:
        """What the gather of a round wants, at random."""
        return np.random.default_rng(number).integers(self.rows, size=self.wanted)


WORKLOADS = (Workload(1_000_000, 100, 100_000), Workload(200_000, 600, 20_000))
TINY = (Workload(2_000, 20, 500),)
