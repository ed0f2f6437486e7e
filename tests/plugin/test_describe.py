# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The tensor map of a vLLM cache points at the very elements that vLLM's backends read and write."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

import torch
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    KVCacheSpec,
    KVCacheTensor,
    MambaSpec,
    MLAAttentionSpec,
    create_kv_cache_views,
)
from vllm.v1.kv_cache_layout import KVCacheLayout

from kvdirect.cache.block_tables import covered_blocks, kernel_table, kernel_tables
from kvdirect.cache.describe import CacheGeometry, describe_cache
from kvdirect.cache.parts import Heads
from kvdirect.cache.shard import Shard
from kvtransfer import Plan
from kvtransfer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

BLOCKS, TOKENS, HEADS, SIZE, LAYERS = 5, 32, 2, 8, 3
FULL = FullAttentionSpec(block_size=TOKENS, num_kv_heads=HEADS, head_size=SIZE, dtype=torch.float32)
LATENT = MLAAttentionSpec(block_size=TOKENS, num_kv_heads=1, head_size=12, dtype=torch.float32)
IDENTITY = [("model", "m")]
COLUMNS = "CPU_ATTN:vec"


def cache(
    spec: KVCacheSpec, layout: KVCacheLayout, kernel_tokens: int | None = None
) -> tuple[KVCacheConfig, dict[str, torch.Tensor]]:
    """A cache as vLLM makes it: one allocation, one view for each layer."""
    page, names = spec.page_size_bytes, [f"layer.{i}" for i in range(LAYERS)]
    size = LAYERS * BLOCKS * page
    if layout.is_layer_compact:
        place = KVCacheTensor(size=size, layers=names, layer_stride=BLOCKS * page, block_stride=page)
    else:
        place = KVCacheTensor(size=size, layers=names, layer_stride=page, block_stride=LAYERS * page)
    config = KVCacheConfig(num_blocks=BLOCKS, kv_cache_tensors=[place], kv_cache_groups=[KVCacheGroupSpec(names, spec)])
    raw = torch.zeros(size, dtype=torch.int8)
    views = create_kv_cache_views(raw, spec, BLOCKS, layout, place, kernel_block_size=kernel_tokens)
    return config, dict(zip(names, views, strict=True))


def describe(config: KVCacheConfig, views: Mapping[str, torch.Tensor], backend: str) -> CacheGeometry:
    return describe_cache(config, views, dict.fromkeys(views, backend), IDENTITY)


def through_the_map(geometry: CacheGeometry, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The component as an array [block, head, token, element], read with nothing but the map."""
    component = next(c for c in geometry.tensor_map.components if c.name == name)
    memory = geometry.storages[component.region].numpy()
    return np.lib.stride_tricks.as_strided(
        memory[component.offset :].view(np.uint8).view(np.float32) if component.offset % 4 == 0 else memory,
        shape=[axis.extent for axis in component.axes],
        strides=[axis.stride for axis in component.axes],
    )


def as_backend_reads(view: torch.Tensor, backend: str) -> tuple[torch.Tensor, torch.Tensor]:
    """K and V, [block, head, token, element], cut out of a view as the attention backend does it."""
    if backend == COLUMNS:
        blocks, heads, tokens, _ = view.shape
        keys, values = view.view(blocks, heads, 2 * tokens, SIZE).chunk(2, dim=2)
        keys = keys.view(blocks, heads, SIZE, tokens).transpose(2, 3)  # each K is a column of its page
    else:
        keys, values = view.split(SIZE, dim=-1)
    return keys, values


@pytest.mark.parametrize(
    ("backend", "layout", "kernel_tokens"),
    [
        (COLUMNS, KVCacheLayout.LBHNC, None),
        (COLUMNS, KVCacheLayout.LBHNC, 16),
        ("FLASH_ATTN", KVCacheLayout.LBHNC, None),
        ("FLASH_ATTN", KVCacheLayout.LBNHC, 16),
        ("TRITON_ATTN", KVCacheLayout.BLHNC, None),
        ("FLASHINFER", KVCacheLayout.BLNHC, None),
    ],
)
def test_keys_and_values_are_where_the_backend_has_them(
    backend: str, layout: KVCacheLayout, kernel_tokens: int | None
) -> None:
    config, views = cache(FULL, layout, kernel_tokens)
    generator = np.random.default_rng(7)
    for view in views.values():
        for part in as_backend_reads(view, backend):
            part.copy_(torch.from_numpy(generator.random(part.shape, dtype=np.float32)))
    geometry = describe(config, views, backend)
    names = [c.name for c in geometry.tensor_map.components]
    assert names == [f"{part}.layer.{i}" for i in range(LAYERS) for part in "kv"]
    assert geometry.kernel_blocks == (TOKENS // (kernel_tokens or TOKENS),)
    assert geometry.block_sizes == (TOKENS,)
    for layer, view in views.items():
        for part, expected in zip("kv", as_backend_reads(view, backend), strict=True):
            np.testing.assert_array_equal(through_the_map(geometry, f"{part}.{layer}"), expected.numpy())


@pytest.mark.parametrize("backend", ["CPU_ATTN", "CPU_ATTN:amx", "DEEPSEEK_V32_INDEXER"])
def test_what_is_packed_in_a_way_of_its_own_moves_by_whole_pages(backend: str) -> None:
    spec = LATENT if "V32" in backend else FULL
    config, views = cache(spec, KVCacheLayout.LBHNC)
    geometry = describe(config, views, backend)
    components = geometry.tensor_map.components
    assert [c.name for c in components] == [f"page.{layer}" for layer in views]
    assert {c.dtype for c in components} == {"float32 in tiles for amx" if "amx" in backend else "float32"}
    for component in components:
        assert component.tokens_per_cell == TOKENS
        extents = {axis.name: axis.extent for axis in component.axes}
        assert extents["token"] == 1
        assert extents["head"] * extents["element"] * 4 == spec.page_size_bytes


def test_map_is_valid_for_its_memory() -> None:
    for backend, layout in (
        (COLUMNS, KVCacheLayout.LBHNC),
        ("CPU_ATTN:amx", KVCacheLayout.LBHNC),
        ("FLASH_ATTN", KVCacheLayout.BLNHC),
    ):
        geometry = describe(*cache(FULL, layout), backend)
        geometry.tensor_map.validate([storage.nbytes for storage in geometry.storages])


def test_a_latent_is_one_component_a_layer() -> None:
    config, views = cache(LATENT, KVCacheLayout.LBHNC)
    for number, view in enumerate(views.values()):
        view.copy_(torch.arange(view.numel()).reshape(view.shape) + number * view.numel())
    geometry = describe(config, views, "TRITON_MLA")
    assert [c.name for c in geometry.tensor_map.components] == [f"latent.{layer}" for layer in views]
    for layer, view in views.items():
        np.testing.assert_array_equal(through_the_map(geometry, f"latent.{layer}"), view.numpy())


def test_layers_that_share_a_cache_are_described_once() -> None:
    config, views = cache(FULL, KVCacheLayout.LBHNC)
    twice = {**views, "borrower": views["layer.0"]}
    geometry = describe(config, twice, COLUMNS)
    assert geometry.tensor_map == describe(config, views, COLUMNS).tensor_map
    assert len(geometry.storages) == 1


def test_the_order_of_layers_in_a_group_does_not_matter() -> None:
    config, views = cache(FULL, KVCacheLayout.LBHNC)
    before = {c.name: c for c in describe(config, views, COLUMNS).tensor_map.components}
    names = list(views)
    config.kv_cache_groups[0].layer_names[:] = [names[1], names[0], names[2]]
    assert {c.name: c for c in describe(config, views, COLUMNS).tensor_map.components} == before


def test_two_groups_have_two_tables() -> None:
    config, views = cache(FULL, KVCacheLayout.LBHNC)
    first, second = list(views)[:2], list(views)[2:]
    config = dataclasses.replace(
        config, kv_cache_groups=[KVCacheGroupSpec(first, FULL), KVCacheGroupSpec(second, FULL)]
    )
    geometry = describe(config, views, COLUMNS)
    assert {(c.name, c.table) for c in geometry.tensor_map.components} == {
        (f"{part}.{layer}", int(layer in second)) for layer in views for part in "kv"
    }


def test_the_fingerprint_says_nothing_of_how_the_cache_lies() -> None:
    ours = describe(*cache(FULL, KVCacheLayout.LBHNC), COLUMNS)
    theirs = describe(*cache(FULL, KVCacheLayout.LBNHC, 16), "FLASH_ATTN")
    assert ours.fingerprint == theirs.fingerprint
    assert dict(ours.fingerprint)["model"] == "m"
    Plan(ours.tensor_map, [theirs.tensor_map])


@pytest.mark.parametrize(
    ("shard", "heads", "expected"),
    [
        (Shard(), 2, Heads(2, 64, 0)),
        (Shard(0, 2, 4), 2, Heads(2, 64, 0)),
        (Shard(1, 2, 4), 2, Heads(2, 64, 2)),
        (Shard(3, 4, 2), 1, Heads(1, 64, 1, replicated=True)),  # two ranks share each head
        (Shard(2, 4, 2), 1, Heads(1, 64, 1, replicated=True)),
        (Shard(1, 4, 2), 1, Heads(1, 64, 0, replicated=True)),
        (Shard(1, 2, 0), 3, Heads(3, 64, 3)),
        (Shard(1, 2, 2), 1, Heads(1, 64, 1)),
        # One head a rank of a layer that has another number of heads than the model: how many it has cannot be told.
        (Shard(1, 2, 4), 1, Heads(1, 64, 1, only_like=" of 2 ranks")),
        (Shard(0, 1, 4), 1, Heads(1, 64, 0)),
    ],
)
def test_which_heads_a_rank_has(shard: Shard, heads: int, expected: Heads) -> None:
    assert shard.heads(heads, 64) == expected


def test_which_worker_of_an_engine() -> None:
    assert [Shard(rank, 2, 2, stage, 3).index for stage in range(3) for rank in range(2)] == list(range(6))
    assert Shard(0, 2, 2, 0, 3).count == 6


def test_a_rank_says_which_heads_of_the_model_it_has() -> None:
    config, views = cache(FULL, KVCacheLayout.LBHNC)
    ranks = [
        describe_cache(config, views, dict.fromkeys(views, COLUMNS), IDENTITY, Shard(rank, 2, 2 * HEADS))
        for rank in (0, 1)
    ]
    for rank, geometry in enumerate(ranks):
        for component in geometry.tensor_map.components:
            [head] = [axis for axis in component.axes if axis.name == "head"]
            assert head.owned == (((HEADS, HEADS, 1),) if rank else ())
        assert {component.replica_group for component in geometry.tensor_map.components} == {0}
    assert ranks[0].fingerprint == ranks[1].fingerprint


def test_every_rank_has_the_whole_latent() -> None:
    config, views = cache(LATENT, KVCacheLayout.LBHNC)
    backends = dict.fromkeys(views, "TRITON_MLA")
    [first, second] = [describe_cache(config, views, backends, IDENTITY, Shard(rank, 2, 16)) for rank in (0, 1)]
    assert first.tensor_map == second.tensor_map
    assert {component.replica_group for component in first.tensor_map.components} == {1}


@pytest.mark.parametrize(
    ("spec", "backend", "reason"),
    [
        (MambaSpec(shapes=((4,),), dtypes=(torch.float32,), block_size=TOKENS), "MAMBA2_ATTN", "one state of 16 bytes"),
        (FULL, "TURBOQUANT", "not known"),
        (dataclasses.replace(FULL, num_kv_heads=4), "CPU_ATTN", "expected 4 heads"),
        (dataclasses.replace(LATENT, tokens_per_state=4), "TRITON_MLA", "one row for 4 tokens"),
    ],
    ids=["mamba", "backend", "heads", "compressed"],
)
def test_what_cannot_be_described_is_refused_by_layer_and_reason(spec: KVCacheSpec, backend: str, reason: str) -> None:
    config, views = cache(FULL, KVCacheLayout.LBHNC)
    config.kv_cache_groups[0].kv_cache_spec = spec
    with pytest.raises(ConfigError, match=reason) as caught:
        describe(config, views, backend)
    assert "layer.0" in str(caught.value)


def test_a_layer_without_a_cache_is_refused() -> None:
    config, views = cache(FULL, KVCacheLayout.LBHNC)
    del views["layer.1"]
    with pytest.raises(ConfigError, match=r"layer\.1 .*no cache"):
        describe(config, views, COLUMNS)


def test_tables() -> None:
    assert kernel_table([3, 0, 1], 1).tolist() == [3, -1, 1]
    assert kernel_table([3, 0, 1], 2).tolist() == [6, 7, -1, -1, 2, 3]
    assert kernel_table([], 4).tolist() == []
    assert [table.tolist() for table in kernel_tables([[1], [2, 3]], [2, 1])] == [[2, 3], [2, 3]]
    assert covered_blocks([7, 0, 5, 4], 10, 0, 25) == [7, 5]
    assert covered_blocks([7, 0, 5, 4], 10, 20, 21) == [5]
