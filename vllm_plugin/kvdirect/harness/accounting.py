# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What an engine's own counters say: where the tokens of prompts came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from .http_client import http

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.samples import Sample


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
