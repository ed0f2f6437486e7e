# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the demo expects to be moved: from the model's shape and the engine's counters, never from the planner."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from .http_client import http

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from prometheus_client.samples import Sample

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class AccountingError(RuntimeError):
    """What was moved or computed is not what the model's shape says; or the shape cannot be worked out."""


def metrics(url: str) -> list[Sample]:
    """The samples at `url`/metrics."""
    page = http().get(f"{url}/metrics", timeout=10.0)
    page.raise_for_status()
    return [sample for family in text_string_to_metric_families(page.text) for sample in family.samples]


def total(samples: Iterable[Sample], name: str, **labels: str) -> float:
    """The sum of a metric over all engines, for the labels given."""
    wanted = labels.items()
    return float(sum(s.value for s in samples if s.name == name and wanted <= s.labels.items()))


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """Where the tokens of all prompts so far came from, as vLLM itself counts them."""

    local_hit: int
    external: int
    computed: int

    @classmethod
    def read(cls, url: str) -> PromptTokens:
        """Ask the engine at `url`."""
        samples = metrics(url)

        def by_source(source: str) -> int:
            return int(total(samples, "vllm:prompt_tokens_by_source_total", source=source))

        return cls(by_source("local_cache_hit"), by_source("external_kv_transfer"), by_source("local_compute"))

    @property
    def all(self) -> int:
        """Every prompt token, wherever it came from."""
        return self.local_hit + self.external + self.computed

    def __sub__(self, other: PromptTokens) -> PromptTokens:
        """What happened since `other`."""
        return PromptTokens(
            self.local_hit - other.local_hit, self.external - other.external, self.computed - other.computed
        )


@dataclass(frozen=True, slots=True)
class CacheGeometry:
    """One engine's cache: tokens in a block, and bytes of a block over all layers, keys and values."""

    block_size: int
    block_bytes: int

    def expected_bytes(self, prompt_tokens: int, local_hits: int) -> int:
        """Bytes to move for a prompt: its blocks, less those that the engine holds already (hits are whole blocks).

        The last token of a prompt is always computed where it is decoded, so its keys and values need not travel.
        """
        blocks = -(-(prompt_tokens - 1) // self.block_size)
        return (blocks - local_hits // self.block_size) * self.block_bytes


def cache_geometry(model: Path, engine_url: str, *, dtype: str, cache_bytes: int) -> CacheGeometry:
    """The geometry from the model's config.json, checked against the number of blocks that the engine allocated.

    Raises:
        AccountingError: The two disagree, so this arithmetic does not describe the model (MLA, hybrids).
    """
    config = json.loads((model / "config.json").read_text())
    config = config.get("text_config", config)
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    head_size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    cache = next((s.labels for s in metrics(engine_url) if s.name == "vllm:cache_config_info"), None)
    if cache is None:
        raise AccountingError(f"{engine_url}/metrics has no vllm:cache_config_info")
    block_size = int(cache["block_size"])
    block_bytes = config["num_hidden_layers"] * 2 * heads * head_size * DTYPE_BYTES[dtype] * block_size
    allocated = int(cache["num_gpu_blocks"])
    if cache_bytes // block_bytes != allocated:
        raise AccountingError(
            f"the engine made {allocated} blocks of {cache_bytes} bytes, but config.json of {model} says {block_bytes} "
            f"bytes a block, {cache_bytes // block_bytes} blocks; the demo can account for plain attention models only"
        )
    return CacheGeometry(block_size, block_bytes)
