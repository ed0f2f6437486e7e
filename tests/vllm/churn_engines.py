# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The models that churn, and the engines that serve them: sizes of their caches, ranks, lanes and policies."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from churn_mix import MAX_LENGTH
from engines import HOST_LANE, ONE_PROCESS, SLEEPING, Spec

from kvdirect.harness.model import make_tiny_llama, write_tokenizer

sys.path.append(str(Path(__file__).parents[1] / "kinds"))  # behind ours: some names are in both
from models import make
from rows import BY_NAME

USUAL = (("--max-model-len", str(MAX_LENGTH)), ("--max-num-batched-tokens", "64"))
# What is freed goes back to the kernel, so that resident memory says what is held. With glibc's own choice vLLM alone,
# without a connector, grows for hundreds of requests before its heap stops getting more fragmented.
RETURN_FREED = (("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_THRESHOLD_", "131072"), ("MALLOC_TRIM_THRESHOLD_", "131072"))
# Neither ranks that spin until their peer is done nor a compiler suit a machine of two cores.
FEW_CORES = (*SLEEPING, ("TORCHDYNAMO_DISABLE", "1"))
POLICIES = {"fail": HOST_LANE, "recompute": "message"}


@dataclass(frozen=True, slots=True)
class Model:
    """What churns.

    Attributes:
        row: Of the kinds of cache (tests/kinds/rows.py); "" is the Llama of all other tests.
        block_kib: Of a block over all layers, as vLLM lays it out on one rank; several have a share each.
        prefill, decode, aggregated: Blocks. Where prompts are prefilled, there is room for what leases hold that nobody
            completes; where they are decoded, there is barely more than the longest needs, and requests preempt each
            other. Aggregated, for several of them. No cache is so large that a warm-up leaves parts of it untouched:
            resident memory counts only pages that were.
    """

    row: str
    block_kib: int
    prefill: int
    decode: int
    aggregated: int

    @property
    def keeps_prefixes(self) -> bool:
        return not self.row or BY_NAME[self.row].prefixes

    def make(self, folder: Path) -> Path:
        """The folder of the model, with the tokenizer of the Llama."""
        if not self.row:
            return make_tiny_llama(folder)
        row = BY_NAME[self.row]
        make(folder, row.architecture, row.dtype, **row.change)
        write_tokenizer(folder)
        return folder

    def options(self, blocks: int, ranks: int = 1) -> tuple[tuple[str, str | None], ...]:
        """Of an engine whose cache has so many blocks on each rank."""
        cache = ("--kv-cache-memory-bytes", str((blocks * self.block_kib << 10) // ranks))
        tensor_parallel = (("--tensor-parallel-size", str(ranks)),) if ranks > 1 else ()
        given = BY_NAME[self.row].options if self.row else {}
        return (cache, *USUAL, *tensor_parallel, *(_flag(key, value) for key, value in given.items()))


MODELS = {
    "llama": Model("", 128, prefill=96, decode=36, aggregated=128),
    # A layer of each of two groups has a block's half: the longest prompt needs 32 blocks, and 6 for its window.
    "window": Model("window", 64, prefill=128, decode=44, aggregated=176),
    # vLLM makes attention's blocks as large as a state, 128 tokens: the longest prompt needs 8, and one for its state.
    "state": Model("Mamba2", 256, prefill=36, decode=10, aggregated=48),
}


def _flag(key: str, value: Any) -> tuple[str, str | None]:  # noqa: ANN401
    """vLLM's argument for a field of its EngineArgs."""
    option = "--" + key.replace("_", "-")
    if value is False:
        return option.replace("--", "--no-", 1), ""
    return option, value if value is None else str(value)


def aggregated_of(model: str) -> Spec:
    """The engine alone."""
    return Spec(options=MODELS[model].options(MODELS[model].aggregated), environment=environment(1))


def engines_of(model: str, ranks: tuple[int, int], first_term: float) -> list[Spec]:
    """The owner, and a reader for each policy. `ranks`: of the owner and of each reader."""
    churned, (owner, reader) = MODELS[model], ranks
    terms = (("lease_first_term", str(first_term)), ("lease_term", str(first_term)))
    prefill, decode = churned.options(churned.prefill, owner), churned.options(churned.decode, reader)
    specs = [Spec("kv_producer", extra=terms, options=prefill, environment=environment(owner))]
    for policy, lane in POLICIES.items():
        extra = (*terms, ("lanes", json.dumps([lane])), ("handshake_timeout", "10"))
        specs.append(Spec("kv_consumer", extra=extra, options=decode, policy=policy, environment=environment(reader)))
    return specs


def environment(ranks: int) -> tuple[tuple[str, str], ...]:
    """Of an engine: in one process, or one for each rank beside the scheduler's."""
    return (*(ONE_PROCESS if ranks == 1 else FEW_CORES), *RETURN_FREED)
