# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Which part of a model's cache one worker has: its tensor-parallel rank, and the KV heads that go with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank of a tensor-parallel engine.

    Attributes:
        rank: 0 to size - 1.
        size: Ranks of the engine.
        total_heads: KV heads of the whole model, 0 where it has no such number.
    """

    rank: int = 0
    size: int = 1
    total_heads: int = 0

    @classmethod
    def of(cls, vllm_config: Any) -> Shard:
        """The shard of this process. vLLM sets the rank in workers only; elsewhere it is 0."""
        parallel = vllm_config.parallel_config
        size = int(parallel.tensor_parallel_size)
        return cls(int(parallel.rank) % size, size, int(vllm_config.model_config.get_total_num_kv_heads()))

    def first_head(self, heads: int) -> int:
        """The model's index of this rank's first of `heads` heads; with fewer heads than ranks, ranks share them."""
        if 0 < self.total_heads < self.size:
            return self.rank * self.total_heads // self.size
        return self.rank * heads
