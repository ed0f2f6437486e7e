# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The kinds of cache that are tested with real engines, and how many bytes of each a prompt takes, by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from models import ALTERNATING, CHUNK, WINDOW

LAYERS, KV_HEADS, HEAD = 4, 2, 64
BLOCK = 32


@dataclass(frozen=True, slots=True)
class Part:
    """What some layers keep; one of vLLM's groups holds one part, or several parts of one kind.

    Attributes:
        kind: vLLM's class of their specs, as its groups say it.
        row: Bytes that they keep for one token, or for all of them if `state`.
        window: Tokens that stay, if not all.
        chunk: Tokens whose multiples end what stays.
    """

    kind: str
    row: int
    state: bool = False
    window: int = 0
    chunk: int = 0

    def blocks(self, tokens: int, hits: int, block_size: int) -> int:
        """Blocks to pull for the reader of a prompt that has `hits` of its tokens."""
        if self.state:
            return 1
        there = tokens - 1
        skipped = 0
        if self.window:
            skipped = max(0, there - self.window + 1)
        elif self.chunk:
            skipped = there // self.chunk * self.chunk
        return -(-there // block_size) - max(skipped // block_size, hits // block_size)

    def bytes(self, tokens: int, hits: int, block_size: int) -> int:
        """Bytes to pull."""
        return self.blocks(tokens, hits, block_size) * (self.row if self.state else self.row * block_size)


def rows_of(layers: int, item: int, heads: int = KV_HEADS) -> int:
    """Bytes of K and V of one token."""
    return layers * 2 * heads * HEAD * item


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of cache with the model that has it.

    Attributes:
        parts: In the order of vLLM's groups.
        prefixes: Whether vLLM keeps prefixes of prompts, and answers from them what it answers without.
        exact: Whether an aggregated engine has the same tokens. Else the kernels for prompts and for single tokens
            differ, and only an engine that stops before the last token and goes on says what is right.
        alone: Requests are asked one after the other, because vLLM's CPU kernels answer otherwise in a batch.
        comparable: Whether vLLM's CPU kernels agree with themselves. Else only bytes say something.
        draft: Kind and KV heads of a draft model.
        images: Whether prompts may have some.
        options: Of the engines.
    """

    name: str
    architecture: str
    dtype: str
    parts: tuple[Part, ...]
    prefixes: bool = True
    exact: bool = True
    alone: bool = False
    comparable: bool = True
    draft: tuple[str, int] | None = None
    images: bool = False
    tolerance: float = 1e-3
    options: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    change: dict[str, Any] = field(default_factory=dict)

    @property
    def forgets(self) -> bool:
        return any(part.state or part.window or part.chunk for part in self.parts)

    @property
    def state(self) -> bool:
        return any(part.state for part in self.parts)

    @property
    def lengths(self) -> list[int]:
        """Prompts: short ones, those around a block's end, and those around where the cache forgets."""
        found = {1, 2, 20, 31, 32, 33, 65, 300, 700}
        if any(part.window for part in self.parts):
            around = [WINDOW - 1 + k * BLOCK for k in (0, 1, 2, 5)]
            found |= {n + d for n in around for d in (-1, 0, 1, 2)}
        if any(part.chunk for part in self.parts):
            found |= {k * CHUNK + d for k in (1, 2, 3) for d in (-1, 0, 1, 2)}
        if self.state:
            found |= {63, 64, 65, 127, 128, 129, 130, 256, 257}
        return sorted(found)


# A convolution's inputs, and the state.
_GRANITE_STATE = 2 * ((512 + 2 * 32) * 3 * 4 + 8 * 64 * 32 * 4)
_DELTA_STATE = (2 * 2 * 64 + 4 * 64) * 3 * 2 + 4 * 64 * 64 * 4
# With one more input, since one drafted token may be taken back.
_DRAFTED_STATE = (2 * 2 * 64 + 4 * 64) * 4 * 2 + 4 * 64 * 64 * 4
_CHUNKS = {"VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE": "1"}

ROWS = (
    Row(
        "window",
        "Gemma3ForCausalLM",
        "float32",
        (Part("SlidingWindowSpec", rows_of(2, 4), window=WINDOW), Part("FullAttentionSpec", rows_of(2, 4))),
    ),
    Row(
        "window and sinks",
        "GptOssForCausalLM",
        "bfloat16",
        (Part("SlidingWindowSpec", rows_of(2, 2), window=WINDOW), Part("FullAttentionSpec", rows_of(2, 2))),
        exact=False,
        alone=True,
    ),
    Row("all windows", "MistralForCausalLM", "float32", (Part("SlidingWindowSpec", rows_of(4, 4), window=WINDOW),)),
    Row(
        "chunked local",
        "Llama4ForCausalLM",
        "bfloat16",
        (Part("ChunkedLocalAttentionSpec", rows_of(2, 2), chunk=CHUNK), Part("FullAttentionSpec", rows_of(2, 2))),
        exact=False,
        alone=True,
        environment=_CHUNKS,
    ),
    Row(
        "latent",
        "DeepseekV2ForCausalLM",
        "float32",
        (Part("MLAAttentionSpec", 4 * 576 * 4),),
        prefixes=False,
        alone=True,
        comparable=False,
        options={"block_size": 16, "attention_backend": "CPU_MLA"},
    ),
    Row(
        "Mamba2",
        "GraniteMoeHybridForCausalLM",
        "float32",
        (Part("MambaSpec", _GRANITE_STATE, state=True), Part("FullAttentionSpec", rows_of(2, 4))),
        prefixes=False,
        options={"block_size": None, "enable_prefix_caching": False},
    ),
    Row(
        "short convolution",
        "Lfm2ForCausalLM",
        "float32",
        (Part("MambaSpec", 2 * 256 * 2 * 4, state=True), Part("FullAttentionSpec", rows_of(2, 4))),
        prefixes=False,
        exact=False,
        alone=True,
        options={"block_size": None, "max_num_batched_tokens": 2048},
    ),
    Row(
        "gated delta net",
        "Qwen3NextForCausalLM",
        "bfloat16",
        (*[Part("MambaSpec", _DELTA_STATE, state=True)] * 3, Part("FullAttentionSpec", rows_of(1, 2))),
        exact=False,
        alone=True,
        options={"block_size": None},
    ),
    Row(
        "KV sharing",
        "Gemma4ForCausalLM",
        "float32",
        (Part("SlidingWindowSpec", rows_of(2, 4), window=WINDOW), Part("FullAttentionSpec", rows_of(2, 4))),
    ),
    Row(
        "fp8",
        "LlamaForCausalLM",
        "float32",
        (Part("FullAttentionSpec", rows_of(4, 1)),),
        options={"kv_cache_dtype": "fp8"},
    ),
    Row(
        "EAGLE draft of other heads",
        "LlamaForCausalLM",
        "float32",
        (Part("FullAttentionSpec", rows_of(4, 4) + rows_of(1, 4, heads=1)),),
        draft=("eagle", 1),
    ),
    Row(
        "EAGLE3 draft",
        "LlamaForCausalLM",
        "float32",
        (Part("FullAttentionSpec", rows_of(5, 4)),),
        draft=("eagle3", 2),
    ),
    Row(
        "MTP draft",
        "MiMoForCausalLM",
        "float32",
        (Part("FullAttentionSpec", rows_of(5, 4)),),
        draft=("mtp", KV_HEADS),
    ),
    Row(
        "MTP draft of a delta net",
        "Qwen3NextForCausalLM",
        "bfloat16",
        (
            Part("MambaSpec", 2 * _DRAFTED_STATE, state=True),
            Part("MambaSpec", _DRAFTED_STATE, state=True),
            Part("FullAttentionSpec", rows_of(2, 2)),
        ),
        prefixes=False,
        exact=False,
        alone=True,
        comparable=False,
        draft=("mtp", KV_HEADS),
        options={"block_size": None, "enable_prefix_caching": False},
        change={"num_nextn_predict_layers": 1},
    ),
    Row(
        "images",
        "Idefics3ForConditionalGeneration",
        "float32",
        (Part("FullAttentionSpec", rows_of(4, 4)),),
        images=True,
        options={"skip_tokenizer_init": False},
    ),
    Row(
        "images and windows",
        "Idefics3ForConditionalGeneration",
        "float32",
        (Part("SlidingWindowSpec", rows_of(2, 4), window=WINDOW), Part("FullAttentionSpec", rows_of(2, 4))),
        images=True,
        options={"skip_tokenizer_init": False},
        change={"layer_types": ALTERNATING, "sliding_window": WINDOW},
    ),
)
BY_NAME = {row.name: row for row in ROWS}
