# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Which store has which row."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kvtransfer.arrays import IntTable, int_table
from kvtransfer.errors import ConfigError, PlanError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvtransfer.arrays import IntArray


class Share(NamedTuple):
    """What one store has of the ids that are wanted.

    Attributes:
        shard: Which store.
        rows: Its rows' numbers, int64.
        places: Where they stand among the ids, int64, ascending.
    """

    shard: int
    rows: IntTable
    places: IntTable


class IdRanges:
    """The ids of several stores; an id that several of them have is read from the first."""

    def __init__(self, ranges: Sequence[range]) -> None:
        """One range of non-negative ids, ascending, for each store.

        Raises:
            ConfigError: There is none, or one is empty or runs backwards.
        """
        for shard, ids in enumerate(ranges):
            if len(ids) == 0 or ids.start < 0 or ids.step < 1:
                raise ConfigError(f"store {shard} has ids {ids}, expected an ascending range from 0", operation="rows")
        if not ranges:
            raise ConfigError("no store was given", operation="rows", hint="Give an offer of each")
        self._ranges = tuple(ranges)
        # Ascending, without gaps and overlaps: one search finds all.
        ends = [ids.stop for ids in ranges]
        touch = all(after.start == before.stop for before, after in pairwise(ranges))
        self._ends = np.array(ends, np.int64) if touch and all(ids.step == 1 for ids in ranges) else None

    def split(self, ids: IntArray) -> tuple[int, list[Share]]:
        """How many ids there are, and each store's share of them; stores that have none are left out.

        Raises:
            PlanError: Not one-dimensional, not integers, or an id that no store has.
        """
        wanted = int_table(ids, "ids", "gather")
        if wanted.size == 0:
            return 0, []
        return wanted.size, self._of_any(wanted) if self._ends is None else self._of_neighbours(wanted, self._ends)

    def _of_neighbours(self, ids: IntTable, ends: IntTable) -> list[Share]:
        if int(ids.min()) < self._ranges[0].start or int(ids.max()) >= self._ranges[-1].stop:
            self._refuse(ids, (ids < self._ranges[0].start) | (ids >= self._ranges[-1].stop))
        count = len(self._ranges)
        if count == 1:
            return [Share(0, ids - self._ranges[0].start, np.arange(ids.size))]
        if count == 2:
            behind = ids >= ends[0]
            split = [np.flatnonzero(~behind), np.flatnonzero(behind)]
        else:
            # Sorting numbers of one or two bytes goes by their digits, and keeps the order within each.
            shards = np.searchsorted(ends[:-1], ids, side="right").astype(np.min_scalar_type(count))
            order = np.argsort(shards, kind="stable")
            bounds = np.cumsum(np.bincount(shards, minlength=count))[:-1]
            split = np.split(order, bounds)
        return [
            Share(shard, ids[places] - self._ranges[shard].start, places)
            for shard, places in enumerate(split)
            if places.size
        ]

    def _of_any(self, ids: IntTable) -> list[Share]:
        shares = []
        left = np.ones(ids.size, np.bool_)
        for shard, known in enumerate(self._ranges):
            rows = ids - known.start
            here = left & (rows >= 0) & (ids < known.stop)
            if known.step > 1:
                rows, rest = np.divmod(rows, known.step)
                here &= rest == 0
            places = np.flatnonzero(here)
            if places.size:
                left[places] = False
                shares.append(Share(shard, rows[places], places))
        if left.any():
            self._refuse(ids, left)
        return shares

    def _refuse(self, ids: IntTable, wrong: np.typing.NDArray[np.bool_]) -> None:
        entry = int(np.flatnonzero(wrong)[0])
        shown = ", ".join(str(one) for one in self._ranges[:8]) + (", ..." if len(self._ranges) > 8 else "")
        raise PlanError(f"ids[{entry}] is {int(ids[entry])}, which no store has: {shown}", operation="gather")
