# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Which part of a model's cache one worker has: its tensor-parallel rank, and the KV heads that go with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .parts import Heads

# What models' configurations call it.
_STATE_GROUPS = ("mamba_n_groups", "n_groups", "mamba_ngroups")


@dataclass(frozen=True, slots=True)
class Shard:
    """One worker of an engine of several.

    Attributes:
        rank: Of its tensor-parallel group, 0 to size - 1.
        size: Ranks in the group.
        total_heads: KV heads of the whole model, 0 where it has no such number.
        state_groups: Groups of B and C of its Mamba2 layers, 0 where it has no such number.
        stage: Of the pipeline.
        stages: In the pipeline.
    """

    rank: int = 0
    size: int = 1
    total_heads: int = 0
    stage: int = 0
    stages: int = 1
    state_groups: int = 0

    @classmethod
    def of(cls, vllm_config: Any) -> Shard:
        """The shard of this process. vLLM sets the rank in workers only; elsewhere it is 0."""
        parallel = vllm_config.parallel_config
        size, stages = int(parallel.tensor_parallel_size), int(parallel.pipeline_parallel_size)
        rank, heads = int(parallel.rank), int(vllm_config.model_config.get_total_num_kv_heads())
        config = vllm_config.model_config.hf_text_config
        groups = next((int(found) for name in _STATE_GROUPS if (found := getattr(config, name, None))), 0)
        return cls(rank % size, size, heads, rank // size % stages, stages, groups)

    @property
    def index(self) -> int:
        """Among the workers of the engine, the first stage's first."""
        return self.stage * self.size + self.rank

    @property
    def count(self) -> int:
        """Workers of the engine."""
        return self.stages * self.size

    @property
    def only_like_this(self) -> str:
        """For the names of components that mean the same only between engines of as many ranks."""
        return f" of {self.size} ranks"

    def heads(self, count: int, stride: int) -> Heads:
        """Which `count` heads this rank has of a layer; where there are fewer heads than ranks, ranks share them."""
        total = self.total_heads
        if self.size == 1 or count == total // self.size:
            return Heads(count, stride, self.rank * count)
        if 0 < total < self.size and count == 1:
            return Heads(count, stride, self.rank * total // self.size, replicated=True)
        # A layer with another number of heads than the model, a draft's for example: with one head a rank, how many
        # there are in all cannot be told.
        return Heads(count, stride, self.rank * count, only_like=self.only_like_this if count == 1 else "")
