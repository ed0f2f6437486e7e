# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""How many bytes a prompt's cache has to move: from the model's configuration, never from the planner."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .accounting import metrics

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_FULL, _WINDOW, _DELTA = "full_attention", "sliding_attention", "linear_attention"


class AccountingError(RuntimeError):
    """What was moved or computed is not what the model's shape says; or the shape cannot be worked out."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What all layers of one kind keep.

    Attributes:
        size: Bytes for one token; of a state, for all of them.
        window: Tokens that stay, if not all.
        state: Whether it is a state, of which the latest stands for all tokens.
    """

    size: int
    window: int = 0
    state: bool = False

    def moved(self, prompt_tokens: int, local_hits: int, block_size: int) -> int:
        """Bytes to move for a prompt: blocks that still hold something, less those of the reader's own prefix."""
        if self.state:
            return self.size
        there = prompt_tokens - 1
        forgotten = max(0, there - self.window + 1) if self.window else 0
        blocks = math.ceil(there / block_size) - max(forgotten, local_hits) // block_size
        return blocks * block_size * self.size


@dataclass(frozen=True, slots=True)
class CacheGeometry:
    """One engine's cache: tokens in a block, and what layers keep."""

    block_size: int
    kept: tuple[Kept, ...]

    def expected_bytes(self, prompt_tokens: int, local_hits: int) -> int:
        """Bytes to move for a prompt of which the reader has `local_hits` tokens (whole blocks).

        The last token of a prompt is always computed where it is decoded, so what it adds need not travel.
        """
        return sum(kept.moved(prompt_tokens, local_hits, self.block_size) for kept in self.kept)

    def __str__(self) -> str:
        """One line for people."""

        def one(kept: Kept) -> str:
            if kept.state:
                return f"{kept.size} bytes of state"
            rows = f"{kept.size * self.block_size} bytes a block"
            return rows + (f" (the last {kept.window} tokens)" if kept.window else "")

        return f"a block is {self.block_size} tokens; layers keep " + " and ".join(map(one, self.kept))


def text_config(model: Path) -> Any:
    """The configuration of the model's language part.

    Raises:
        AccountingError: transformers does not know it.
    """
    import transformers  # noqa: PLC0415  (only here; comes with vLLM)

    try:
        return transformers.AutoConfig.from_pretrained(str(model)).get_text_config()
    except (OSError, ValueError) as error:
        raise AccountingError(f"transformers cannot read the configuration of {model}: {error}") from None


def has_states(config: Any) -> bool:
    """Whether some layers keep a state instead of rows."""
    return _DELTA in layer_types(config)


def layer_types(config: Any) -> list[str]:
    """The type of each layer, as transformers names it.

    Raises:
        AccountingError: There are some whose cache this module cannot work out.
    """
    types = getattr(config, "layer_types", None)
    if types is None:
        windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
        types = [_WINDOW if windowed else _FULL] * config.num_hidden_layers
    odd = sorted(set(types) - {_FULL, _WINDOW, _DELTA})
    odd += [name for name in ("num_kv_shared_layers", "global_head_dim") if getattr(config, name, None)]
    if odd:
        raise AccountingError(
            f"the demo cannot work out the cache of a {config.model_type} model with {', '.join(odd)}; it knows full "
            f"and windowed attention, latent caches and gated delta nets"
        )
    return list(types)


def cache_geometry(config: Any, engine_url: str, *, dtype: str, cache_bytes: int) -> CacheGeometry:
    """The geometry from a model's configuration, checked against the number of blocks that the engine allocated.

    Only where all layers keep the same can it be checked: vLLM lets others share memory, and pads.

    Raises:
        AccountingError: The two disagree, so this arithmetic does not describe the model.
    """
    cache = next((s.labels for s in metrics(engine_url) if s.name == "vllm:cache_config_info"), None)
    if cache is None:
        raise AccountingError(f"{engine_url}/metrics has no vllm:cache_config_info")
    geometry = CacheGeometry(int(cache["block_size"]), kept_by(config, dtype, cache))
    if len(geometry.kept) == 1:
        [kept] = geometry.kept
        block_bytes = kept.size * geometry.block_size
        allocated = int(cache["num_gpu_blocks"])
        if cache_bytes // block_bytes != allocated:
            raise AccountingError(
                f"the engine made {allocated} blocks of {cache_bytes} bytes, but the model's configuration says "
                f"{block_bytes} bytes a block, {cache_bytes // block_bytes} blocks"
            )
    return geometry


def kept_by(config: Any, dtype: str, cache: Mapping[str, str]) -> tuple[Kept, ...]:
    """What the layers keep, for each kind; `cache` is what vLLM says of its cache's configuration."""
    types, item = layer_types(config), DTYPE_BYTES[dtype]
    row = _row(config) * item
    made = []
    if count := types.count(_FULL):
        made.append(Kept(count * row))
    if count := types.count(_WINDOW):
        made.append(Kept(count * row, window=config.sliding_window))
    if count := types.count(_DELTA):
        made.append(Kept(count * _delta_state(config, item, cache["mamba_ssm_cache_dtype"]), state=True))
    return tuple(made)


def _row(config: Any) -> int:
    """Numbers that one layer of attention keeps of a token."""
    if rank := getattr(config, "kv_lora_rank", None):
        return int(rank + config.qk_rope_head_dim)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * heads * head_size)


def _delta_state(config: Any, item: int, state_dtype: str) -> int:
    """Bytes that one gated delta net keeps: the inputs of its convolution, and a matrix for each value head."""
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    values = config.linear_num_value_heads * config.linear_value_head_dim
    inputs = (2 * keys + values) * (config.linear_conv_kernel_dim - 1)
    return int(inputs * item + values * config.linear_key_head_dim * DTYPE_BYTES.get(state_dtype, item))
