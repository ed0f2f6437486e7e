# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What one layer's cache looks like: the strides of its view, and what its attention backend keeps in it.

vLLM hands over one view [B, H, N, C] per layer: kernel blocks, heads, tokens, content, where C holds K and V. It is the
same on CPU and GPU and in every layout, and all strides are taken from it; what it cannot say, how K and V lie in C, is
looked up by the backend's name. A backend whose name is not here is refused: a wrong guess would be wrong tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvtransfer.errors import ConfigError

from .kinds import is_latent, is_state, why_not
from .parts import Heads, Part
from .state_parts import state_parts

if TYPE_CHECKING:
    import torch

    from .shard import Shard

PLANAR = "planar"  # per block and head, all K rows, then all V rows
INTERLEAVED = "interleaved"  # per token and head, K and V side by side
LATENT = "latent"  # per token one row of bytes and no V (MLA); what is in the row, scales too, does not matter
PAGED = "paged"  # per block one piece: the rows of all its tokens, then the scales of all of them

_BACKENDS = {
    PLANAR: "CPU_ATTN",
    INTERLEAVED: (
        "FLASH_ATTN FLASH_ATTN_DIFFKV TRITON_ATTN TRITON_ATTN_DIFFKV FLASHINFER TRITON_FLASH_ATTN TRITON_FLASHINFER "
        "FLEX_ATTENTION HPC_ATTN"
    ),
    LATENT: (
        "CPU_MLA AMX_MLA TRITON_MLA FLASH_ATTN_MLA FLASHMLA CUTLASS_MLA FLASHINFER_MLA TOKENSPEED_MLA "
        "FLASH_ATTN_MLA_SPARSE FLASHMLA_SPARSE FLASHINFER_MLA_SPARSE FLASHINFER_MLA_SPARSE_SM90 "
        "FLASHINFER_MLA_SPARSE_SM120"
    ),
    PAGED: "DEEPSEEK_V32_INDEXER",
}
PACKING = {backend: packing for packing, backends in _BACKENDS.items() for backend in backends.split()}


# CPU_ATTN, by the instructions it uses, keeps each K in a column of its page and each V in a row of it; with others
# it keeps them in tiles.
_COLUMNS = ("vec", "vec16")


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One layer's cache: the extents of its view and their byte strides, and the components that it is made of."""

    group: int
    device: str
    extents: tuple[int, int, int, int]
    strides: tuple[int, int, int, int]
    parts: tuple[Part, ...]


def layer_shape(group: int, layer: str, spec: Any, tensor: torch.Tensor, backend: str, shard: Shard) -> LayerShape:
    """Check one layer's view against its spec.

    Raises:
        ConfigError: It cannot be described; names the layer and the reason.
    """
    _check_device(layer, tensor.device)
    if why := why_not(spec):
        raise refusal(layer, why)
    if is_state(spec):
        return _state_shape(group, layer, spec, tensor, shard)
    if tensor.dim() != 4 or tensor.stride(3) != 1:
        raise refusal(layer, f"expected a view [B, H, N, C] with dense C, got {tuple(tensor.shape)}/{tensor.stride()}")
    _, heads, tokens, content = tensor.shape
    if spec.block_size % tokens:
        raise refusal(layer, f"kernel blocks of {tokens} tokens do not divide blocks of {spec.block_size}")
    packing = _packing(layer, spec, backend)
    whole = packing in {LATENT, PAGED}
    size, size_v = (content, 0) if whole else (int(spec.head_size), int(spec.head_size_v or 0))
    if not whole and (heads, content) != (spec.num_kv_heads, size + size_v):
        expected = f"{spec.num_kv_heads} heads of {size}+{size_v}"
        raise refusal(layer, f"expected {expected}, got {heads} of {content}; scales inside a page are not supported")
    if packing in {PLANAR, PAGED} and tensor.stride(2) != content:
        raise refusal(layer, f"{packing} content needs dense [N, C] pages")
    stride = tensor.stride(1) * tensor.element_size()
    mine = Heads(heads, stride, replicated=shard.size > 1) if whole else shard.heads(heads, stride)
    return _shape(group, tensor, _rows(tensor, packing, backend.partition(":")[2], size, size_v, mine))


def _shape(group: int, tensor: torch.Tensor, parts: tuple[Part, ...]) -> LayerShape:
    strides = tuple(stride * tensor.element_size() for stride in tensor.stride())
    return LayerShape(group, tensor.device.type, tuple(tensor.shape), strides, parts)


def _rows(tensor: torch.Tensor, packing: str, order: str, size: int, size_v: int, heads: Heads) -> tuple[Part, ...]:
    """Components of a cache with one row for each token; those without elements, too.

    `order`: in which a page of a CPU's backend has its elements; empty elsewhere.
    """
    _, _, tokens, content = tensor.shape
    item = tensor.element_size()
    row, keys, values = tensor.stride(2) * item, size * item, size_v * item
    dtype = str(tensor.dtype).removeprefix("torch.")

    def part(name: str, size: int, offset: int, token_stride: int, element_stride: int) -> Part:
        return Part(name, dtype, item, offset, heads, size, element_stride, tokens, token_stride)

    if packing == LATENT:
        return (part("latent", size, 0, row, item),)
    if packing == INTERLEAVED:
        return part("k", size, 0, row, item), part("v", size_v, keys, row, item)
    if packing == PLANAR and order in _COLUMNS:
        return part("k", size, 0, item, tokens * item), part("v", size_v, tokens * keys, values, item)
    if order:
        dtype += f" in tiles for {order}"
    return (Part("page", dtype, item, 0, heads, tokens * content, item, 1, tokens * row, tokens),)


def refusal(layer: str, reason: str) -> ConfigError:
    """The error for a layer that cannot be moved."""
    return ConfigError(
        f"the KV cache of layer {layer} cannot be moved: {reason}",
        operation="describe the KV cache",
        hint="Serve this model without the kvdirect connector",
    )


def _check_device(layer: str, device: torch.device) -> None:
    """Host memory, and that of NVIDIA's GPUs."""
    if device.type not in {"cpu", "cuda"}:
        raise refusal(layer, f"its cache is on {device}, and this version moves host memory and that of CUDA GPUs only")
    if device.type == "cuda":
        import torch  # noqa: PLC0415  (vLLM has loaded it long before)

        if torch.version.hip is not None:  # torch calls AMD's GPUs cuda too
            raise refusal(layer, f"its cache is on {device} of ROCm, and this version moves NVIDIA GPUs' memory only")


def _state_shape(group: int, layer: str, spec: Any, tensor: torch.Tensor, shard: Shard) -> LayerShape:
    """One record a block, as long as what the spec lists; each rank has a part of the model's."""
    size = sum(math.prod(shape) * dtype.itemsize for shape, dtype in zip(spec.shapes, spec.dtypes, strict=True))
    item = tensor.element_size()
    if tensor.dim() != 4 or tensor.stride(3) != 1 or tensor.shape[1:] != (1, 1, size // item):
        raise refusal(layer, f"expected one state of {size} bytes in a block, got a view {tuple(tensor.shape)}")
    return _shape(group, tensor, state_parts(spec, shard))


def _packing(layer: str, spec: Any, backend: str) -> str:
    packing = PACKING.get(backend.partition(":")[0], "")
    if not packing:
        raise refusal(layer, f"how {backend} packs its cache is not known; known: {', '.join(PACKING)}")
    if is_latent(spec) != (packing in {LATENT, PAGED}):
        raise refusal(layer, f"{backend} is not known to keep a {type(spec).__name__}")
    return packing
