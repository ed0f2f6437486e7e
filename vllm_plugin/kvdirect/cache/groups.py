# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The cache groups that move between engines: each has a block table of its own for every request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .kinds import forgets, is_state, layer_specs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# A state is one record for all positions, so its table is one entry that stands for any of them: more than a model has.
ALL_POSITIONS = 1 << 31


@dataclass(frozen=True, slots=True)
class Group:
    """One transferred cache group: its layers with their specs, and what its block table means.

    Attributes:
        id: Among all of vLLM's groups.
        block_size: Tokens in one of the scheduler's blocks.
        forgets: Its blocks change hands while a request runs, and what is left serves the next position only.
        is_state: Of its blocks only one counts, which holds the state of all positions.
    """

    id: int
    layers: tuple[str, ...]
    specs: Mapping[str, Any]
    block_size: int
    forgets: bool = False
    is_state: bool = False

    @property
    def span(self) -> int:
        """Positions that one entry of its table stands for, as it is granted and pulled."""
        return ALL_POSITIONS if self.is_state else self.block_size

    def table(self, blocks: Sequence[int], tokens: int) -> list[int]:
        """The table, as it is granted and pulled, of a request that has these blocks for so many positions."""
        return [int(blocks[(tokens - 1) // self.block_size])] if self.is_state else [int(block) for block in blocks]


def transfer_group_ids(kv_cache_config: Any) -> tuple[int, ...]:
    """Ids of the cache groups that move between engines."""
    ids = getattr(kv_cache_config, "transfer_group_ids", None)
    return tuple(range(len(kv_cache_config.kv_cache_groups))) if ids is None else tuple(ids)


def transfer_groups(kv_cache_config: Any) -> tuple[Group, ...]:
    """The groups that move, in the order of their block tables."""
    groups = []
    for group_id in transfer_group_ids(kv_cache_config):
        group = kv_cache_config.kv_cache_groups[group_id]
        specs = layer_specs(group)
        groups.append(
            Group(
                group_id,
                tuple(group.layer_names),
                specs,
                int(group.kv_cache_spec.block_size),
                forgets(specs.values()),
                any(map(is_state, specs.values())),
            )
        )
    return tuple(groups)
