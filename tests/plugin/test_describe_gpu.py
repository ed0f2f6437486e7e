# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A cache on a GPU is described as the same cache on the host is, and what cannot be moved is refused by name.

The tensors are torch's fake ones: they say that they are on a GPU, have real shapes and strides, and no memory. vLLM's
own code makes the views. What test_describe.py shows of maps with real bytes then holds for these too.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    KVCacheSpec,
    KVCacheTensor,
    KVQuantMode,
    MLAAttentionSpec,
    compute_layout_strides,
    create_kv_cache_views,
)
from vllm.v1.kv_cache_layout import KVCacheLayout

from kvdirect.cache.describe import CacheGeometry, describe_cache
from kvdirect.fingerprint import first_difference
from kvtransfer import MemoryKind
from kvtransfer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

# We only compare addresses with each other.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")

_MODE = FakeTensorMode()
BLOCKS, TOKENS, LAYERS = 5, 64, 3
FULL = FullAttentionSpec(block_size=TOKENS, num_kv_heads=2, head_size=8, dtype=torch.bfloat16)
FP8 = dataclasses.replace(FULL, dtype=torch.uint8, kv_quant_mode=KVQuantMode.FP8_PER_TENSOR)
WIDE_K = dataclasses.replace(FULL, head_size=24, head_size_v=16)
LATENT = MLAAttentionSpec(block_size=TOKENS, num_kv_heads=1, head_size=576, dtype=torch.bfloat16)
FP8_LATENT = dataclasses.replace(
    LATENT, dtype=torch.uint8, cache_dtype_str="fp8_ds_mla", state_content_bytes=656
)  # 512 values, 4 scales, 64 values of bfloat16
INDEXER = MLAAttentionSpec(block_size=TOKENS, num_kv_heads=1, head_size=132, dtype=torch.uint8)


def views_of(
    spec: KVCacheSpec, layout: KVCacheLayout, device: str, kernel_tokens: int | None = None
) -> tuple[KVCacheConfig, dict[str, torch.Tensor]]:
    """A cache as vLLM's `allocate_kv_cache` makes it: one allocation, one view for each layer."""
    page, names = spec.page_size_bytes, [f"layer.{i}" for i in range(LAYERS)]
    layer_stride, block_stride, *_ = compute_layout_strides(spec, BLOCKS, LAYERS, layout)
    place = KVCacheTensor(LAYERS * BLOCKS * page, names, layer_stride, block_stride)
    config = KVCacheConfig(num_blocks=BLOCKS, kv_cache_tensors=[place], kv_cache_groups=[KVCacheGroupSpec(names, spec)])
    raw = torch.zeros(place.size, dtype=torch.int8, device="cpu" if device == "cpu" else "meta")
    views = create_kv_cache_views(raw, spec, BLOCKS, layout, place, kernel_block_size=kernel_tokens)
    if device != "cpu":
        views = [FakeTensor(_MODE, view, torch.device(device)) for view in views]
    return config, dict(zip(names, views, strict=True))


def describe(
    config: KVCacheConfig, views: Mapping[str, torch.Tensor], backend: str, layout: str = "LBHNC"
) -> CacheGeometry:
    return describe_cache(config, views, dict.fromkeys(views, backend), [("model", "m"), ("layout", layout)])


@pytest.mark.parametrize("layout", list(KVCacheLayout), ids=lambda layout: layout.name)
@pytest.mark.parametrize(
    ("backend", "spec", "parts"),
    [
        ("FLASH_ATTN", FULL, {"k": 8, "v": 8}),
        ("FLASH_ATTN", FP8, {"k": 8, "v": 8}),
        ("FLASHINFER", FULL, {"k": 8, "v": 8}),
        ("TRITON_ATTN", FP8, {"k": 8, "v": 8}),
        ("FLASH_ATTN_DIFFKV", WIDE_K, {"k": 24, "v": 16}),
        ("FLASHMLA", LATENT, {"latent": 576}),
        ("CUTLASS_MLA", LATENT, {"latent": 576}),
        ("FLASHMLA_SPARSE", FP8_LATENT, {"latent": 656}),
        ("DEEPSEEK_V32_INDEXER", INDEXER, {"page": 132 * TOKENS}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_gpus_cache_is_described_as_the_hosts(
    backend: str, spec: KVCacheSpec, parts: dict[str, int], layout: KVCacheLayout
) -> None:
    on_gpu, on_host = (describe(*views_of(spec, layout, device), backend) for device in ("cuda:0", "cpu"))
    assert on_gpu.device == torch.device("cuda:0")
    assert on_gpu.tensor_map.components, "something is described"
    sizes = [storage.nbytes for storage in on_gpu.storages]
    assert sizes == [LAYERS * BLOCKS * spec.page_size_bytes], "one allocation"
    on_gpu.tensor_map.validate(sizes)
    for mine, theirs in zip(on_gpu.tensor_map.components, on_host.tensor_map.components, strict=True):
        assert (mine.memory, theirs.memory) == (MemoryKind.CUDA, MemoryKind.HOST)
        assert (mine.name, mine.axes, mine.dtype, mine.item_bytes) == (
            theirs.name, theirs.axes, theirs.dtype, theirs.item_bytes
        )  # fmt: skip
        assert (mine.region, mine.offset, mine.table) == (theirs.region, theirs.offset, theirs.table)
    elements = {c.name.partition(".")[0]: c.axes[-1].extent for c in on_gpu.tensor_map.components}
    assert elements == parts
    cells = 1 if "page" in parts else TOKENS
    assert sum(parts.values()) * spec.dtype.itemsize * cells * spec.num_heads == spec.page_size_bytes, "all of a page"


def test_smaller_kernel_blocks() -> None:
    geometry = describe(*views_of(FULL, KVCacheLayout.LBNHC, "cuda:0", kernel_tokens=16), "FLASHINFER")
    assert geometry.kernel_blocks == (4,)
    assert {axis.extent for c in geometry.tensor_map.components for axis in c.axes if axis.name == "token"} == {16}


def test_host_and_gpu_are_refused_as_peers_by_device() -> None:
    gpu = describe(*views_of(FULL, KVCacheLayout.LBNHC, "cuda:0"), "FLASH_ATTN", "LBNHC")
    host = describe(*views_of(FULL, KVCacheLayout.LBHNC, "cpu"), "CPU_ATTN")
    assert first_difference(gpu.fingerprint, host.fingerprint) == ("device", "cuda", "cpu")
    other = describe(*views_of(FULL, KVCacheLayout.LBNHC, "cuda:1"), "FLASH_ATTN", "LBNHC")
    assert first_difference(gpu.fingerprint, other.fingerprint) is None, "which of a host's GPUs it is does not matter"


def test_other_devices_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"layer\.0 .*on xpu:0.*host memory and that of CUDA GPUs only"):
        describe(*views_of(FULL, KVCacheLayout.LBHNC, "xpu:0"), "FLASH_ATTN")


def test_a_gpu_of_rocm_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch calls it cuda, and vLLM calls one of its own backends there FLASH_ATTN."""
    monkeypatch.setattr(torch.version, "hip", "7.0")
    with pytest.raises(ConfigError, match="of ROCm"):
        describe(*views_of(FULL, KVCacheLayout.LBHNC, "cuda:0"), "FLASH_ATTN")


@pytest.mark.parametrize("other", ["cpu", "cuda:1"])
def test_a_worker_has_one_device(other: str) -> None:
    config, views = views_of(FULL, KVCacheLayout.LBHNC, "cuda:0")
    views["layer.1"] = views_of(FULL, KVCacheLayout.LBHNC, other)[1]["layer.1"]
    with pytest.raises(ConfigError, match=rf"layer\.1 .*it is on {other} and others are on cuda:0"):
        describe(config, views, "FLASH_ATTN")


@pytest.mark.parametrize(
    ("spec", "backend", "reason"),
    [
        (dataclasses.replace(FP8, state_content_bytes=24), "TRITON_ATTN", "of 24; scales inside a page"),
        (dataclasses.replace(FP8, num_head_slots=4, state_content_bytes=9), "FLASHINFER", "2 heads of 8.8, got 4 of 9"),
        (FULL, "B12X", "how B12X packs its cache is not known; known: CPU_ATTN, FLASH_ATTN"),
        (FULL, "FLASHMLA", "FLASHMLA is not known to keep a FullAttentionSpec"),
        (LATENT, "FLASH_ATTN", "FLASH_ATTN is not known to keep a MLAAttentionSpec"),
        (LATENT, "DEEPSEEK_V4_INDEXER", "not known"),
        (dataclasses.replace(LATENT, model_version="deepseek_v4"), "FLASHMLA_SPARSE", "of deepseek_v4 packs"),
    ],
    ids=["scales per head", "nvfp4", "unknown", "no latent", "no keys", "unknown latent", "deepseek v4"],
)
def test_packing_that_is_not_known_is_refused(spec: KVCacheSpec, backend: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        describe(*views_of(spec, KVCacheLayout.LBHNC, "cuda:0"), backend)


def test_pages_that_move_whole_may_be_beside_blocks_of_another_size() -> None:
    config, views = views_of(INDEXER, KVCacheLayout.BLHNC, "cuda:0")
    first, second = list(views)[:2], list(views)[2:]
    groups = [
        KVCacheGroupSpec(first, INDEXER),
        KVCacheGroupSpec(second, dataclasses.replace(INDEXER, block_size=2 * TOKENS)),
    ]
    geometry = describe(dataclasses.replace(config, kv_cache_groups=groups), views, "DEEPSEEK_V32_INDEXER")
    assert geometry.block_sizes == (TOKENS, 2 * TOKENS)
    assert {component.tokens_per_cell for component in geometry.tensor_map.components} == {TOKENS}
