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
from .shard import RankHeads
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
STATE = "state"  # per block one piece: the state at one position, in parts that the spec lists
PACKING = {backend: packing for packing, backends in _BACKENDS.items() for backend in backends.split()}


# CPU_ATTN, by the instructions it uses, keeps each K in a column of its page and each V in a row of it; with others
# it keeps them in tiles.
_COLUMNS = ("vec", "vec16")


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One layer's cache: the extents of its view and their byte strides, what C holds, and whose it is.

    Attributes:
        order: In which order a page of a CPU's backend has its elements; empty elsewhere.
        first_head: The model's index of the first head.
        replicated: Other ranks hold the same bytes.
        only_like: Follows the names of the components where they mean the same only between ranks of one number.
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
    order: str = ""
    first_head: int = 0
    replicated: bool = False
    only_like: str = ""
    state: tuple[Part, ...] = ()

    def parts(self) -> tuple[Part, ...]:
        """The components of the layer; those without elements, too."""
        _, _, tokens, content = self.extents
        row, item = self.strides[2], self.item_bytes
        keys, values = self.head_size * item, self.head_size_v * item
        if self.packing == STATE:
            return self.state
        if self.packing == LATENT:
            return (self._rows("latent", self.head_size, 0, row, item),)
        if self.packing == INTERLEAVED:
            return (
                self._rows("k", self.head_size, 0, row, item),
                self._rows("v", self.head_size_v, keys, row, item),
            )
        if self.packing == PLANAR and self.order in _COLUMNS:
            return (
                self._rows("k", self.head_size, 0, item, tokens * item),
                self._rows("v", self.head_size_v, tokens * keys, values, item),
            )
        return (Part("page", self.dtype, item, 0, self._heads, tokens * content, item, 1, tokens * row, tokens),)

    @property
    def _heads(self) -> Heads:
        return Heads(self.extents[1], self.strides[1], self.first_head, self.replicated, self.only_like)

    def _rows(self, name: str, size: int, offset: int, token_stride: int, element_stride: int) -> Part:
        """A part with one row for each token."""
        tokens = self.extents[2]
        return Part(name, self.dtype, self.item_bytes, offset, self._heads, size, element_stride, tokens, token_stride)


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
    item = tensor.element_size()
    order = backend.partition(":")[2]
    heads_of_rank = shard.heads(heads) if not whole else RankHeads(0, replicated=shard.size > 1)
    return LayerShape(
        group,
        tensor.device.type,
        packing,
        str(tensor.dtype).removeprefix("torch.")
        + (f" in tiles for {order}" if order and order not in _COLUMNS else ""),
        item,
        tuple(tensor.shape),
        tuple(stride * item for stride in tensor.stride()),
        size,
        size_v,
        order,
        heads_of_rank.first,
        heads_of_rank.replicated,
        heads_of_rank.only_like,
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


def _state_shape(group: int, layer: str, spec: Any, tensor: torch.Tensor, shard: Shard) -> LayerShape:
    """One record a block, as long as what the spec lists; each rank has a part of the model's."""
    size = sum(math.prod(shape) * dtype.itemsize for shape, dtype in zip(spec.shapes, spec.dtypes, strict=True))
    item = tensor.element_size()
    if tensor.dim() != 4 or tensor.stride(3) != 1 or tensor.shape[1:] != (1, 1, size // item):
        raise refusal(layer, f"expected one state of {size} bytes in a block, got a view {tuple(tensor.shape)}")
    return LayerShape(
        group,
        tensor.device.type,
        STATE,
        "",
        item,
        tuple(tensor.shape),
        tuple(stride * item for stride in tensor.stride()),
        size // item,
        0,
        state=state_parts(spec, shard),
    )


def _packing(layer: str, spec: Any, backend: str) -> str:
    packing = PACKING.get(backend.partition(":")[0], "")
    if not packing:
        raise refusal(layer, f"how {backend} packs its cache is not known; known: {', '.join(PACKING)}")
    if is_latent(spec) != (packing in {LATENT, PAGED}):
        raise refusal(layer, f"{backend} is not known to keep a {type(spec).__name__}")
    return packing
