# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""vLLM's KV cache as a tensor map, and the fingerprint by which two engines tell whether theirs are alike."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import kvtransfer
from kvdirect.fingerprint import PROTOCOL_VERSION, Fingerprint

from .groups import Group, transfer_groups
from .layer_shape import INTERLEAVED, PLANAR, STATE, WHOLE, LayerShape, layer_shape, refusal
from .shard import Shard

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch


@dataclass(frozen=True, slots=True)
class CacheGeometry:
    """The map of a worker's cache, what it is compared by, and its memory.

    Attributes:
        storages: One tensor of bytes per allocation; the map's regions are their indices.
        kernel_blocks: Per group, kernel blocks in one of the scheduler's blocks.
        block_sizes: Per group, positions that one entry of its block table stands for.
        device: Where all of it lies.
    """

    tensor_map: kvtransfer.TensorMap
    fingerprint: Fingerprint
    storages: tuple[torch.Tensor, ...]
    kernel_blocks: tuple[int, ...]
    block_sizes: tuple[int, ...]
    device: torch.device


def describe_cache(
    kv_cache_config: Any,
    tensors: Mapping[str, torch.Tensor],
    backends: Mapping[str, str],
    identity: Sequence[tuple[str, str]],
    shard: Shard | None = None,
) -> CacheGeometry:
    """Describe the tensors that vLLM registered.

    Args:
        kv_cache_config: vLLM's groups and specs.
        tensors: Layer name to view. Names without a spec share another layer's cache and are left out.
        backends: Layer name to attention backend.
        identity: Fields that the fingerprint starts with: model, dtype and so on.
        shard: Which of the model's heads these tensors hold; all of them by default.

    Raises:
        ConfigError: A layer's cache cannot be described; names the layer and the reason.
    """
    storages: dict[int, torch.Tensor] = {}
    components: list[kvtransfer.Component] = []
    groups = transfer_groups(kv_cache_config)
    device = _device(groups, tensors)
    kernel_blocks = []
    fields = [("protocol_version", str(PROTOCOL_VERSION)), ("device", device.type), *identity]
    for index, group in enumerate(groups):
        classes: dict[LayerShape, list[str]] = {}
        for layer in group.layers:
            backend = backends.get(layer, "(none)")
            shape = layer_shape(index, layer, group.specs[layer], tensors[layer], backend, shard or Shard())
            classes.setdefault(shape, []).append(layer)
        ratios = {shape.ratio for shape in classes}
        if len(ratios) != 1:
            raise refusal(group.layers[0], f"its group mixes kernel block sizes (ratios {sorted(ratios)})")
        kernel_blocks.append(ratios.pop())
        for number, (shape, layers) in enumerate(classes.items()):
            name = f"g{index}" + (f".{number}" if len(classes) > 1 else "")
            components += _components(name, shape, [(layer, tensors[layer]) for layer in layers], storages)
            fields += _fields(name, shape, group, layers, backends)
    return CacheGeometry(
        kvtransfer.TensorMap(components),
        tuple(fields),
        tuple(storages.values()),
        tuple(kernel_blocks),
        tuple(group.span for group in groups),
        device,
    )


def _device(groups: Sequence[Group], tensors: Mapping[str, torch.Tensor]) -> torch.device:
    """The one that holds every layer that moves; the host if there are none."""
    import torch  # noqa: PLC0415  (vLLM has loaded it long before)

    found: dict[torch.device, str] = {}
    for layer in (layer for group in groups for layer in group.layers):
        if layer not in tensors:
            raise refusal(layer, "vLLM registered no cache for it")
        found.setdefault(tensors[layer].device, layer)
    if len(found) > 1:
        (first, _), (other, layer) = itertools.islice(found.items(), 2)
        raise refusal(layer, f"it is on {other} and others are on {first}; one device per worker is supported")
    return next(iter(found), torch.device("cpu"))


def _components(
    name: str, shape: LayerShape, layers: list[tuple[str, torch.Tensor]], storages: dict[int, torch.Tensor]
) -> list[kvtransfer.Component]:
    """Components of layers that look alike: one for all of them where they lie evenly spaced, else one for each."""
    places = [_place(tensor, storages) for _, tensor in layers]
    steps = {b[1] - a[1] for a, b in itertools.pairwise(places)}
    one_region = len({region for region, _ in places}) == 1
    if one_region and len(steps) <= 1 and min(steps, default=1) > 0:
        step = steps.pop() if steps else shape.strides[0] * shape.extents[0]
        return _parts(name, shape, places[0], kvtransfer.Axis("layer", len(layers), step))
    return [
        component
        for number, place in enumerate(places)
        for component in _parts(f"{name}.l{number}", shape, place, None)
    ]


def _parts(
    name: str, shape: LayerShape, place: tuple[int, int], layer_axis: kvtransfer.Axis | None
) -> list[kvtransfer.Component]:
    blocks, heads, tokens, _ = shape.extents
    block_stride, head_stride, token_stride, element_stride = shape.strides
    parts = [(WHOLE.get(shape.packing, "k"), shape.head_size, 0, token_stride)]
    if shape.packing == INTERLEAVED:
        parts.append(("v", shape.head_size_v, shape.head_size * shape.item_bytes, token_stride))
    elif shape.packing == PLANAR:
        row, row_v = shape.head_size * shape.item_bytes, shape.head_size_v * shape.item_bytes
        parts = [("k", shape.head_size, 0, row), ("v", shape.head_size_v, tokens * row, row_v)]
    region, base = place
    owned = [(shape.first_head, heads, 1)] if shape.first_head else []
    return [
        kvtransfer.Component(
            f"{part}.{name}",
            [
                *([layer_axis] if layer_axis is not None else []),
                kvtransfer.Axis("block", blocks, block_stride),
                kvtransfer.Axis("head", heads, head_stride, owned),
                kvtransfer.Axis("token", tokens, stride),
                kvtransfer.Axis("element", size, element_stride),
            ],
            dtype=shape.dtype,
            item_bytes=shape.item_bytes,
            region=region,
            offset=base + offset,
            table=shape.group,
            tokens_per_cell=shape.tokens_per_cell,
            memory=kvtransfer.MemoryKind.CUDA if shape.device == "cuda" else kvtransfer.MemoryKind.HOST,
        )
        for part, size, offset, stride in parts
        if size
    ]


def _place(tensor: torch.Tensor, storages: dict[int, torch.Tensor]) -> tuple[int, int]:
    """The region and byte offset of a view; its storage is added to `storages` when new."""
    storage = tensor.untyped_storage()
    base = storage.data_ptr()
    if base not in storages:
        storages[base] = _as_bytes(storage)
    return list(storages).index(base), tensor.data_ptr() - base


def _as_bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    import torch  # noqa: PLC0415  (vLLM has loaded it long before)

    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage, 0, (storage.nbytes(),), (1,))


def _fields(
    name: str, shape: LayerShape, group: Group, layers: Sequence[str], backends: Mapping[str, str]
) -> list[tuple[str, str]]:
    if shape.packing == STATE:
        return _state_fields(name, shape, group.specs[layers[0]], layers)
    _, heads, tokens, _ = shape.extents
    return [
        (f"{name}.block_size", str(group.block_size)),
        (f"{name}.kernel_block_size", str(tokens)),
        (f"{name}.cache_dtype", shape.dtype),
        (f"{name}.kv_packing", shape.packing),
        (f"{name}.attention_backend", ",".join(sorted({backends.get(layer, "(none)") for layer in layers}))),
        (f"{name}.kv_heads", str(heads)),
        (f"{name}.first_kv_head", str(shape.first_head)),
        (f"{name}.head_size", f"{shape.head_size}+{shape.head_size_v}"),
        (f"{name}.layers", str(len(layers))),
        (f"{name}.specs", ",".join(sorted({type(group.specs[layer]).__name__ for layer in layers}))),
    ]


def _state_fields(name: str, shape: LayerShape, spec: Any, layers: Sequence[str]) -> list[tuple[str, str]]:
    """What a state consists of, which nothing of its bytes says."""
    parts = zip(spec.shapes, spec.dtypes, strict=True)
    return [
        (f"{name}.state", ", ".join(f"{str(dtype).removeprefix('torch.')}{list(size)}" for size, dtype in parts)),
        (f"{name}.state_bytes", str(shape.head_size)),
        (f"{name}.conv_state_layout", os.environ.get("VLLM_SSM_CONV_STATE_LAYOUT", "SD")),
        (f"{name}.layers", str(len(layers))),
    ]


def model_identity(vllm_config: Any, model_id: str, shard: Shard) -> list[tuple[str, str]]:
    """The first fields of a fingerprint: what is configured, as opposed to what was allocated."""
    cache = vllm_config.cache_config
    layout = getattr(cache, "get_resolved_kv_cache_layout", lambda: "unknown")()
    return [
        ("model", model_id or str(vllm_config.model_config.model)),
        ("dtype", str(vllm_config.model_config.dtype).removeprefix("torch.")),
        ("kv_cache_dtype", str(cache.cache_dtype)),
        ("layout", str(getattr(layout, "name", layout))),
        ("tp_size", str(shard.size)),
        ("tp_rank", str(shard.rank)),
        ("pp_size", str(vllm_config.parallel_config.pipeline_parallel_size)),
    ]


def attention_backends(vllm_config: Any, layers: Sequence[str]) -> dict[str, str]:
    """Layer name to the name of its attention backend, for the layers that have one."""
    modules = vllm_config.compilation_config.static_forward_context
    found = {}
    for layer in layers:
        get_backend = getattr(modules.get(layer), "get_attn_backend", None)
        if get_backend is not None:
            found[layer] = str(get_backend().get_name())
    return found
