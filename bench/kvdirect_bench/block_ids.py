# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Which blocks of a pool a pull names: from one run to every block by itself."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from .prng import mixed, shuffled

Ids: TypeAlias = npt.NDArray[np.int64]


def scattered(blocks: int, pool: int, fragmentation: float, seed: int) -> Ids:
    """`blocks` different ids below `pool`, cut into runs whose places and order are random.

    Args:
        blocks: How many.
        pool: Ids there are.
        fragmentation: 0: one run; 1: every block is a run of its own; in between: that share of the possible cuts.
        seed: Same seed, same ids, in every process.
    """
    runs = 1 + round(fragmentation * (blocks - 1))
    lengths = np.full(runs, blocks // runs, dtype=np.int64)
    lengths[: blocks % runs] += 1
    order = shuffled(seed, runs)
    # What is free lies between the runs as it falls: their starts are sorted random cuts plus what was placed before.
    gaps = np.sort(mixed(seed + 1, np.arange(runs)) % np.uint64(pool - blocks + 1)).astype(np.int64)
    placed = lengths[order]
    starts = np.empty(runs, dtype=np.int64)
    starts[order] = gaps + np.cumsum(placed) - placed
    within = np.arange(blocks, dtype=np.int64) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(starts, lengths) + within


def count_runs(source: Ids, target: Ids) -> int:
    """Contiguous pieces that carry source[i] to target[i], merged where both sides continue."""
    if source.size == 0:
        return 0
    order = np.argsort(source, kind="stable")
    breaks = (np.diff(source[order]) != 1) | (np.diff(target[order]) != 1)
    return 1 + int(np.count_nonzero(breaks))
