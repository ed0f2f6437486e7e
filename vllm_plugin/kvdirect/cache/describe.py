# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""vLLM's KV cache as a tensor map, and the fingerprint by which two engines tell whether they hold the same tensors."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import kvtransfer
from kvdirect.fingerprint import PROTOCOL_VERSION, Fingerprint

from .groups import Group, transfer_groups
from .layer_shape import LayerShape, layer_shape, refusal
from .shard import Shard

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from .parts import Heads


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
    shard = shard or Shard()
    storages: dict[int, torch.Tensor] = {}
    components: list[kvtransfer.Component] = []
    groups = transfer_groups(kv_cache_config)
    device = _device(groups, tensors)
    kernel_blocks = []
    for index, group in enumerate(groups):
        ratios = set()
        for layer in group.layers:
            tensor = tensors[layer]
            shape = layer_shape(index, layer, group.specs[layer], tensor, backends.get(layer, "(none)"), shard)
            ratios.add(1 if group.is_state else group.block_size // shape.extents[2])
            components += _parts(layer, shape, _place(tensor, storages))
        if len(ratios) != 1:
            raise refusal(group.layers[0], f"its group mixes kernel block sizes (ratios {sorted(ratios)})")
        kernel_blocks.append(ratios.pop())
    return CacheGeometry(
        kvtransfer.TensorMap(components),
        (("protocol_version", str(PROTOCOL_VERSION)), ("device", device.type), *identity),
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


def _parts(layer: str, shape: LayerShape, place: tuple[int, int]) -> list[kvtransfer.Component]:
    """Components of one layer, named by what they hold and by the layer: engines may group and place it otherwise."""
    blocks, block_stride = shape.extents[0], shape.strides[0]
    region, base = place
    return [
        kvtransfer.Component(
            f"{part.name}.{layer}{part.heads.only_like}",
            [
                kvtransfer.Axis("block", blocks, block_stride),
                kvtransfer.Axis("head", part.heads.count, part.heads.stride, _owned(part.heads)),
                kvtransfer.Axis("token", part.tokens, part.token_stride),
                kvtransfer.Axis("element", part.size, part.element_stride),
            ],
            dtype=part.dtype,
            item_bytes=part.item_bytes,
            tokens_per_cell=part.tokens_per_cell,
            region=region,
            offset=base + part.offset,
            table=shape.group,
            memory=kvtransfer.MemoryKind.CUDA if shape.device == "cuda" else kvtransfer.MemoryKind.HOST,
            replica_group=int(part.heads.replicated),
        )
        for part in shape.parts
        if part.size
    ]


def _owned(heads: Heads) -> list[tuple[int, int, int]]:
    return [(heads.first, heads.count, 1)] if heads.first else []


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


def model_identity(vllm_config: Any, model_id: str, shard: Shard) -> list[tuple[str, str]]:
    """What two engines must have in common: the logical tensors. How they lie in memory is for the planner."""
    return [
        ("model", model_id or str(vllm_config.model_config.model)),
        ("dtype", str(vllm_config.model_config.dtype).removeprefix("torch.")),
        ("kv_cache_dtype", str(vllm_config.cache_config.cache_dtype)),
        ("kv_heads", str(shard.total_heads)),
    ]


def attention_backends(vllm_config: Any, layers: Sequence[str]) -> dict[str, str]:
    """Layer name to the name of its attention backend, for the layers that have one; `NAME:order` on a CPU.

    The order is vLLM's name for the instructions that the layer uses: they decide how K and V lie in a page.
    """
    modules = vllm_config.compilation_config.static_forward_context
    found = {}
    for layer in layers:
        module = modules.get(layer)
        get_backend = getattr(module, "get_attn_backend", None)
        if get_backend is not None:
            order = getattr(module, "isa", "")
            found[layer] = str(get_backend().get_name()) + (f":{order}" if order else "")
    return found
