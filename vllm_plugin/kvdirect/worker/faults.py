# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Corrupts received blocks on purpose, so that tests can show that comparing completions means something."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kvdirect.cache.block_tables import kernel_table
from kvdirect.cache.groups import transfer_groups
from kvdirect.log import logger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch


# Is given the blocks that were received, per cache group.
Corrupter = Callable[[list[list[int]]], None]


def make_corrupter(
    fault: str, kv_cache_config: Any, caches: Mapping[str, torch.Tensor], kernel_blocks: Sequence[int]
) -> Corrupter | None:
    """What the `fault` setting does to blocks that have landed; None in all normal cases.

    "zero" clears them. "permute" reverses their order, and heads and content within each, so that a single block
    changes too.
    """
    if fault:
        logger.warning("FAULT INJECTION IS ON (fault=%r): completions will be WRONG. Tests only.", fault)
    if fault not in {"zero", "permute"}:
        return None
    groups = transfer_groups(kv_cache_config)

    def corrupt(blocks: list[list[int]]) -> None:
        for group, ids, ratio in zip(groups, blocks, kernel_blocks, strict=True):
            table = kernel_table(ids, ratio).tolist()
            for layer in group.layers:
                cache = caches[layer]
                cache[table] = 0 if fault == "zero" else cache[table].flip((0, 1, 3))

    return corrupt
