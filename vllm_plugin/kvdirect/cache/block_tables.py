# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""From vLLM's block ids to the block tables of a tensor map."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

# vLLM keeps block 0 for "nothing here": positions outside a window, or not needed.
NULL_BLOCK = 0
HOLE = -1


def kernel_table(blocks: Sequence[int], ratio: int) -> npt.NDArray[np.int64]:
    """Ids of the kernel blocks that make up these blocks, in order; null blocks become holes.

    Args:
        blocks: Ids as the scheduler knows them, shape (n,).
        ratio: Kernel blocks in one block.

    Returns:
        Shape (n * ratio,).
    """
    ids = np.asarray(blocks, dtype=np.int64)
    table = (ids[:, None] * ratio + np.arange(ratio)).ravel()
    table[np.repeat(ids == NULL_BLOCK, ratio)] = HOLE
    return table


def kernel_tables(tables: Sequence[Sequence[int]], ratios: Sequence[int]) -> list[npt.NDArray[np.int64]]:
    """`kernel_table` for each cache group."""
    return [kernel_table(table, ratio) for table, ratio in zip(tables, ratios, strict=True)]


def covered_blocks(table: Sequence[int], block_size: int, start: int, stop: int) -> list[int]:
    """The blocks that hold positions [start, stop), null blocks left out."""
    return [block for block in table[start // block_size : -(-stop // block_size)] if block != NULL_BLOCK]


def common_stop(spans: Sequence[int], stop: int) -> int:
    """The first position from `stop` on at which blocks of all these spans end."""
    size = math.lcm(*spans)
    return -(-stop // size) * size


def padded(table: Sequence[int], span: int, stop: int) -> list[int]:
    """The table with null blocks behind it, so that it reaches to `stop`."""
    return [*table, *[NULL_BLOCK] * (-(-stop // span) - len(table))]
