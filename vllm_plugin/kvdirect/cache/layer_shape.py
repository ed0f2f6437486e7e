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

from .groups import ALL_POSITIONS
from .kinds import is_latent, is_state, why_not

if TYPE_CHECKING:
    import torch

    from .shard import Shard

PLANAR = "planar"  # per block and head, all K rows, then all V rows
INTERLEAVED = "interleaved"  # per token and head, K and V side by side
LATENT = "latent"  # per token one row of bytes and no V (MLA); what is in the row, scales too, does not matter
PAGED = "paged"  # per block one piece: the rows of all its tokens, then the scales of all of them
STATE = "state"  # per block one piece: the state of all positions up to one, in parts that the spec lists
# What has neither K nor V, and what it is called instead.
WHOLE = {LATENT: "latent", PAGED: "latent", STATE: "state"}

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


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What layers must share to be one component: byte strides of a view, its extents, and what C holds.

    Attributes:
        ratio: Kernel blocks in one of the scheduler's blocks.
        tokens_per_cell: Positions that one row stands for.
    """

    group: int
    device: str
    packing: str
    dtype: str
    item_bytes: int
    extents: tuple[int, int, int, int]
    strides: tuple[int, int, int, int]
    head_size: int
    head_size_v: int
    first_head: int
    ratio: int = 1
    tokens_per_cell: int = 1


def layer_shape(group: int, layer: str, spec: Any, tensor: torch.Tensor, backend: str, shard: Shard) -> LayerShape:
    """Check one layer's view against its spec.

    Raises:
        ConfigError: It cannot be described; names the layer and the reason.
    """
    _check_device(layer, tensor.device)
    if why := why_not(spec):
        raise refusal(layer, why)
    if tensor.dim() != 4 or tensor.stride(3) != 1:
        raise refusal(layer, f"expected a view [B, H, N, C] with dense C, got {tuple(tensor.shape)}/{tensor.stride()}")
    _, heads, tokens, content = tensor.shape
    packing = STATE if is_state(spec) else _packing(layer, spec, backend)
    if packing == STATE:
        _check_state(layer, spec, tensor)
    elif spec.block_size % tokens:
        raise refusal(layer, f"kernel blocks of {tokens} tokens do not divide blocks of {spec.block_size}")
    whole = packing in WHOLE
    size, size_v = (content, 0) if whole else (int(spec.head_size), int(spec.head_size_v or 0))
    if not whole and (heads, content) != (spec.num_kv_heads, size + size_v):
        expected = f"{spec.num_kv_heads} heads of {size}+{size_v}"
        raise refusal(layer, f"expected {expected}, got {heads} of {content}; scales inside a page are not supported")
    if packing in {PLANAR, PAGED} and tensor.stride(2) != content:
        raise refusal(layer, f"{packing} content needs dense [N, C] pages")
    item = tensor.element_size()
    return LayerShape(
        group,
        tensor.device.type,
        packing,
        str(tensor.dtype).removeprefix("torch."),
        item,
        tuple(tensor.shape),
        tuple(stride * item for stride in tensor.stride()),
        size,
        size_v,
        0 if whole else shard.first_head(heads),
        1 if packing == STATE else spec.block_size // tokens,
        ALL_POSITIONS if packing == STATE else 1,
    )


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


def _check_state(layer: str, spec: Any, tensor: torch.Tensor) -> None:
    """One record a block, as long as what the spec lists."""
    size = sum(math.prod(shape) * dtype.itemsize for shape, dtype in zip(spec.shapes, spec.dtypes, strict=True))
    _, heads, tokens, content = tensor.shape
    if (heads, tokens, content * tensor.element_size()) != (1, 1, size):
        raise refusal(layer, f"expected one state of {size} bytes in a block, got a view {tuple(tensor.shape)}")


def _packing(layer: str, spec: Any, backend: str) -> str:
    packing = PACKING.get(backend, "")
    if not packing:
        raise refusal(layer, f"how {backend} packs its cache is not known; known: {', '.join(PACKING)}")
    if is_latent(spec) != (packing in {LATENT, PAGED}):
        raise refusal(layer, f"{backend} is not known to keep a {type(spec).__name__}")
    return packing
