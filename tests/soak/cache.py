# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A node's cache: areas that are granted, a lease each, places to pull to, and bytes that say whose they are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from transfer.layout import Cache, Layout

Words = npt.NDArray[np.uint32]
Ids = npt.NDArray[np.int64]

HEADS = 4
LAYERS = 2
BLOCK_SIZE = 16
WIDTH = 16
# Blocks of each area: mostly pulls that a thread makes by itself, some that take a while (a block is 16 KiB).
AREAS = (*([1] * 24), *([4] * 24), *([16] * 8), *([64] * 2))
OWNED = sum(AREAS)
LARGEST = max(AREAS)
DESTINATIONS = 3  # for each reading thread
READING_THREADS = 2
BLOCKS = OWNED + LARGEST * DESTINATIONS * READING_THREADS

RECLAIMED = 0xDEADBEEF  # an owner's blocks whose lease has ended
GUARD = 0xA5A5A5A5  # a reader's blocks that nothing is pulled to

_PATTERN: Words = np.random.default_rng(13).integers(
    0, 1 << 32, size=(2, LAYERS, LARGEST, BLOCK_SIZE, HEADS, WIDTH), dtype=np.uint32
)


def layout(shard: int | None) -> Layout:
    """That of a whole cache, or of one of two shards."""
    heads = HEADS if shard is None else HEADS // 2
    return Layout(
        layers=LAYERS,
        blocks=BLOCKS,
        block_size=BLOCK_SIZE,
        heads=heads,
        width=WIDTH,
        first_head=heads * (shard or 0),
    )


def _tables() -> list[Ids]:
    shuffled = np.random.default_rng(14).permutation(OWNED)
    ends = np.cumsum(AREAS)
    return [shuffled[end - blocks : end].astype(np.int64) for blocks, end in zip(AREAS, ends, strict=True)]


TABLES = _tables()


def destination(thread: int, number: int) -> Ids:
    first = OWNED + (thread * DESTINATIONS + number) * LARGEST
    return np.arange(first, first + LARGEST, dtype=np.int64)


def _key(epoch: int) -> np.uint32:
    return np.uint32(((epoch * 0x9E3779B97F4A7C15) % (1 << 64)) >> 32)


def stamp(cache: Cache, area: int, epoch: int, shard: int | None) -> None:
    """Write what the blocks of an area hold under a lease: each word says which lease and which place."""
    cache[:, :, TABLES[area]] = _PATTERN[:, :, : AREAS[area], :, _heads(shard)] ^ _key(epoch)


def holds(cache: Cache, blocks: Ids, epoch: int, shard: int | None, start: int, stop: int) -> bool:
    """In these positions of a whole cache's blocks is what the lease's owner, or this shard of it, stamped."""
    heads = _heads(shard)
    first, last = start // BLOCK_SIZE, (stop - 1) // BLOCK_SIZE + 1
    got = cache[:, :, blocks[first:last]][:, :, :, :, heads]
    expected = _PATTERN[:, :, first:last, :, heads] ^ _key(epoch)
    same: npt.NDArray[np.bool_] = (got == expected).reshape(2, LAYERS, -1, heads.stop - heads.start, WIDTH)
    at = first * BLOCK_SIZE
    return bool(same[:, :, start - at : stop - at].all())


def guarded(cache: Cache, blocks: Ids) -> bool:
    """Nothing was written to these blocks since they were given back."""
    # They lie one behind the other, so this makes no copy.
    return bool((cache[:, :, int(blocks[0]) : int(blocks[-1]) + 1] == GUARD).all())


def _heads(shard: int | None) -> slice:
    if shard is None:
        return slice(0, HEADS)
    return slice(shard * HEADS // 2, (shard + 1) * HEADS // 2)
