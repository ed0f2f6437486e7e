# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Kinds of cache are told by vLLM's classes: which move, which forget, which are refused; and how states are described.

Mamba1 and Kimi's delta attention do not run on a CPU: their caches are laid out here by vLLM's own code.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

import torch
from vllm.v1 import kv_cache_interface
from vllm.v1.core.kv_cache_utils import get_kv_cache_config_from_groups
from vllm.v1.kv_cache_interface import (
    ChunkedLocalAttentionSpec,
    CrossAttentionSpec,
    FullAttentionSpec,
    KVCacheGroupSpec,
    KVCacheSpec,
    MambaSpec,
    MLAAttentionSpec,
    SlidingWindowMLASpec,
    SlidingWindowSpec,
    UniformTypeKVCacheSpecs,
    create_kv_cache_views,
)
from vllm.v1.kv_cache_layout import KVCacheLayout

from kvdirect.cache.describe import CacheGeometry, describe_cache
from kvdirect.cache.groups import ALL_POSITIONS, Group, transfer_groups
from kvdirect.cache.kinds import forgets, is_latent, is_state, why_not
from kvdirect.cache.shard import Shard
from kvtransfer.errors import ConfigError

ROW: dict[str, Any] = {"block_size": 32, "num_kv_heads": 2, "head_size": 64, "dtype": torch.float32}
FULL = FullAttentionSpec(**ROW)
STATE = MambaSpec(block_size=2048, shapes=((3, 64), (4, 8, 16)), dtypes=(torch.bfloat16, torch.float32))


class OfAPlugin(KVCacheSpec):
    """As others may register with vLLM."""


@pytest.mark.parametrize(
    ("spec", "lost", "latent"),
    [
        (FULL, False, False),
        (FullAttentionSpec(**ROW, sliding_window=64), False, False),  # without vLLM's hybrid manager
        (SlidingWindowSpec(**ROW, sliding_window=64), True, False),
        (ChunkedLocalAttentionSpec(**ROW, attention_chunk_size=64), True, False),
        (MLAAttentionSpec(**ROW), False, True),
        (SlidingWindowMLASpec(**ROW, sliding_window=64), True, True),
        (STATE, True, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, KVCacheSpec) else "",
)
def test_what_moves(spec: KVCacheSpec, lost: bool, latent: bool) -> None:
    assert why_not(spec) == ""
    assert forgets([FULL, spec]) is lost
    assert is_latent(spec) is latent
    assert is_state(spec) is (spec is STATE)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (CrossAttentionSpec(**ROW), "it is a CrossAttentionSpec: it holds the encoder's output"),
        (OfAPlugin(32), "it is a OfAPlugin, a kind that this version does not know"),
        (MLAAttentionSpec(**ROW, model_version="deepseek_v4"), "of deepseek_v4 packs its pages"),
        (MLAAttentionSpec(**ROW, tokens_per_state=4), "one row for 4 tokens"),
    ],
    ids=["encoder's", "unknown", "DeepSeek V4", "compressed"],
)
def test_what_does_not_move_is_refused_by_name(spec: KVCacheSpec, reason: str) -> None:
    assert reason in why_not(spec)


def test_what_only_newer_versions_have() -> None:
    kind = getattr(kv_cache_interface, "RSWASpec", None)
    if kind is None:
        pytest.skip("this vLLM has no RSWASpec")
    assert why_not(kind(**ROW, rswa_window=64)) == ""
    assert forgets([kind(**ROW, rswa_window=64)])
    replayed = SlidingWindowMLASpec(**ROW, sliding_window=64, bounded_replay=True)
    assert "bounded replay" in why_not(replayed)


def test_every_class_of_this_vllm_is_known() -> None:
    """A new one is refused until somebody has looked at it; here it is noticed."""
    classes = {kind for kind in vars(kv_cache_interface).values() if isinstance(kind, type)}
    specs = {kind for kind in classes if issubclass(kind, KVCacheSpec)} - {KVCacheSpec, UniformTypeKVCacheSpecs}
    reasons = {kind.__name__: why_not(object.__new__(kind)) for kind in specs}
    assert [name for name, reason in reasons.items() if "does not know" in reason] == ["AttentionSpec"]


def test_layers_of_one_group_may_differ() -> None:
    other = dataclasses.replace(FULL, num_kv_heads=1)
    both = UniformTypeKVCacheSpecs(block_size=32, kv_cache_specs={"target": FULL, "draft": other})
    [group] = transfer_groups(SimpleNamespace(kv_cache_groups=[KVCacheGroupSpec(["target", "draft"], both)]))
    assert group.specs == {"target": FULL, "draft": other}
    assert (group.forgets, group.is_state, group.span) == (False, False, 32)


def test_only_the_last_block_of_a_state_counts() -> None:
    aligned = Group(0, ("l",), {}, 32, forgets=True, is_state=True)
    assert aligned.table([0, 0, 7, 8, 9], 96) == [7], "blocks behind it are for guesses"
    assert aligned.table([0, 0, 7, 8, 9], 97) == [8]
    assert Group(0, ("l",), {}, 2048, forgets=True, is_state=True).table([5, 6], 2000) == [5]
    assert aligned.span == ALL_POSITIONS


# Per layer: Mamba1 keeps (intermediate, state) and its convolution; Kimi's delta attention three convolutions and a
# matrix for each head.
MAMBA1 = MambaSpec(block_size=512, shapes=((3, 128), (128, 16)), dtypes=(torch.bfloat16, torch.float32))
DELTA = MambaSpec(
    block_size=512, shapes=((3, 64), (3, 64), (3, 64), (2, 32, 32)), dtypes=(*[torch.bfloat16] * 3, torch.float32)
)


def laid_out(state: MambaSpec) -> tuple[Any, dict[str, torch.Tensor]]:
    """A cache of two groups that share their memory, as vLLM lays it out."""
    padded = dataclasses.replace(state, page_size_padded=FULL.page_size_bytes)
    assert padded.state_content_size_bytes < FULL.page_size_bytes
    groups = [KVCacheGroupSpec(["s.0", "s.1"], padded), KVCacheGroupSpec(["a.0", "a.1"], FULL)]
    vllm_config = SimpleNamespace(
        attention_config=SimpleNamespace(hisparse_config=None),
        cache_config=SimpleNamespace(
            get_resolved_kv_cache_layout=lambda: KVCacheLayout.LBHNC,
            num_gpu_blocks_override=None,
            prefix_cache_retention_interval=None,
        ),
    )
    config = get_kv_cache_config_from_groups(vllm_config, groups, 10 * 2 * FULL.page_size_bytes)
    raw = torch.zeros(config.kv_cache_tensors[0].size, dtype=torch.int8)
    views: dict[str, torch.Tensor] = {}
    for place in config.kv_cache_tensors:
        spec = next(group.kv_cache_spec for group in groups if place.layers[0] in group.layer_names)
        made = create_kv_cache_views(raw, spec, config.num_blocks, KVCacheLayout.LBHNC, place)
        views |= dict(zip(place.layers, made, strict=True))
    return config, views


def described(state: MambaSpec, shard: Shard | None = None) -> CacheGeometry:
    config, views = laid_out(state)
    return describe_cache(config, views, dict.fromkeys(views, "FLASH_ATTN"), [("model", "m")], shard)


@pytest.mark.parametrize("state", [MAMBA1, DELTA], ids=["Mamba1", "Kimi's"])
def test_a_state_is_one_record_of_a_page(state: MambaSpec) -> None:
    geometry = described(state)
    assert (geometry.block_sizes, geometry.kernel_blocks) == ((ALL_POSITIONS, 32), (1, 1))
    found = {component.name: component for component in geometry.tensor_map.components}
    record = found["state.s.1"]
    assert record.tokens_per_cell == ALL_POSITIONS
    assert [(axis.name, axis.extent) for axis in record.axes][1:] == [
        ("head", 1), ("token", 1), ("element", state.state_content_size_bytes)
    ]  # fmt: skip
    assert record.axes[0].stride == FULL.page_size_bytes
    assert record.offset == found["k.a.1"].offset, "groups share memory: a block is of one of them at a time"
    geometry.tensor_map.validate([storage.nbytes for storage in geometry.storages])


def test_what_a_state_consists_of_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def type_of(state: MambaSpec) -> str:
        [first, *_] = described(state).tensor_map.components
        return str(first.dtype)

    base = type_of(MAMBA1)
    assert type_of(dataclasses.replace(MAMBA1, shapes=((128, 3), (128, 16)))) != base
    assert type_of(dataclasses.replace(MAMBA1, block_size=1024)) == base
    monkeypatch.setenv("VLLM_SSM_CONV_STATE_LAYOUT", "DS")
    assert type_of(MAMBA1) != base


def test_each_rank_has_a_part_of_a_state_and_all_of_a_replicated_one() -> None:
    parts = [described(MAMBA1, Shard(rank, 2, 4)).tensor_map.components[0] for rank in (0, 1)]
    assert [part.name for part in parts] == ["state.s.0 of 2 ranks"] * 2
    assert parts[0].axes[1].owned != parts[1].axes[1].owned
    copies = [
        described(dataclasses.replace(MAMBA1, tp_replicated=True), Shard(rank, 2, 4)).tensor_map.components[0]
        for rank in (0, 1)
    ]
    assert copies[0] == copies[1]


def test_a_view_that_is_no_state_is_refused() -> None:
    config, views = laid_out(MAMBA1)
    views["s.0"] = views["s.0"][..., :-4]
    with pytest.raises(ConfigError, match=r"s\.0 .*expected one state of"):
        describe_cache(config, views, {}, [])
