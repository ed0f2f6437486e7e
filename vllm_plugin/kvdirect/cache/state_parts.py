# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The record that a layer with a state keeps for a request, as parts that ranks share among them.

A record is a convolution's last inputs, channel by channel, and the recurrent state, head by head (vLLM's
`MambaStateShapeCalculator`). A rank's channels are its piece of each of the projections that were concatenated, so one
stretch of a rank's record is several of the model's. Records that are not known to be made so move between equal ranks.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from .groups import ALL_POSITIONS
from .parts import Heads, Part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .shard import Shard


def state_parts(spec: Any, shard: Shard) -> tuple[Part, ...]:
    """The components of one layer's state on this rank; `spec` is vLLM's MambaSpec."""
    sections = _sections(spec, shard)
    if shard.size > 1 and bool(getattr(spec, "tp_replicated", False)):
        return (_record(spec, Heads(1, 0, replicated=True)),)
    if not sections:
        apart = shard.size > 1
        return (
            _record(spec, Heads(1, 0, shard.rank if apart else 0, only_like=shard.only_like_this if apart else "")),
        )
    parts = _convolution(spec, sections, shard)
    if len(spec.shapes) > 1:
        parts.append(_recurrent(spec, shard))
    return tuple(parts)


def _record(spec: Any, heads: Heads) -> Part:
    """All of it as bytes; what they are, which nothing in them says, is compared as their type."""
    listed = zip(spec.shapes, spec.dtypes, strict=True)
    text = " ".join([*(f"{_name(dtype)}{list(shape)}" for shape, dtype in listed), _layout()])
    size = sum(math.prod(shape) * dtype.itemsize for shape, dtype in zip(spec.shapes, spec.dtypes, strict=True))
    return Part("state", text, 1, 0, heads, size, 1, tokens_per_cell=ALL_POSITIONS)


def _sections(spec: Any, shard: Shard) -> list[tuple[str, int, bool]]:
    """Projections behind the convolution's channels: name, channels of this rank, whether all ranks have the same ones.

    Empty where they cannot be told.
    """
    kind = str(getattr(spec.mamba_type, "name", spec.mamba_type)).lower()
    if len(spec.shapes[0]) != 2:
        return []
    channels = _channels_and_inputs(spec)[0]
    if kind.startswith("short_conv") and len(spec.shapes) == 1:
        return [("x", channels, False)]
    if len(spec.shapes) != 2 or len(spec.shapes[1]) != 3:
        return []
    heads, head, states = spec.shapes[1]
    own, pair = heads * head, channels - heads * head  # two projections of one size beside that of the heads
    if pair > 0 and pair % 2 == 0 and kind.startswith("mamba2"):
        return _mamba2(own, pair // 2, states, shard)
    if pair > 0 and pair % 2 == 0 and kind.startswith("gdn"):
        return [("q", pair // 2, False), ("k", pair // 2, False), ("v", own, False)]
    return []


def _mamba2(own: int, one: int, states: int, shard: Shard) -> list[tuple[str, int, bool]]:
    """Every rank has B and C of its own groups; or of the only one, which then all have."""
    may_be_all = shard.size > 1 and one == states
    if may_be_all and shard.state_groups not in {1, shard.size}:
        return []
    shared = may_be_all and shard.state_groups == 1
    return [("x", own, False), ("b", one, shared), ("c", one, shared)]


def _convolution(spec: Any, sections: Sequence[tuple[str, int, bool]], shard: Shard) -> list[Part]:
    channels, inputs = _channels_and_inputs(spec)
    item = spec.dtypes[0].itemsize
    # One layout has each channel's inputs side by side, the other each input's channels.
    channel, step = (inputs * item, item) if _layout() == "DS" else (item, channels * item)
    parts, before = [], 0
    for name, count, shared in sections:
        heads = Heads(count, channel, 0 if shared else shard.rank * count, replicated=shared)
        # A draft model's guesses lengthen the convolution, and shift what is in it.
        dtype = f"{_name(spec.dtypes[0])} of {inputs} inputs"
        offset = before * channel
        parts.append(Part(f"conv.{name}", dtype, item, offset, heads, inputs, step, tokens_per_cell=ALL_POSITIONS))
        before += count
    return parts


def _recurrent(spec: Any, shard: Shard) -> Part:
    dtype, (count, *rest) = spec.dtypes[1], spec.shapes[1]
    item, size = dtype.itemsize, math.prod(rest)
    offset = math.prod(spec.shapes[0]) * spec.dtypes[0].itemsize
    heads = Heads(count, size * item, shard.rank * count)
    return Part("state", f"{_name(dtype)}{rest}", item, offset, heads, size, item, tokens_per_cell=ALL_POSITIONS)


def _channels_and_inputs(spec: Any) -> tuple[int, int]:
    first, second = spec.shapes[0]
    return (first, second) if _layout() == "DS" else (second, first)


def _layout() -> str:
    """Of convolutions, as vLLM has it: channels outside (DS), or inputs (SD)."""
    return os.environ.get("VLLM_SSM_CONV_STATE_LAYOUT", "SD")


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
