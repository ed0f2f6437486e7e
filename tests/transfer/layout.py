# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A paged cache that every process of a test can rebuild from a seed, and what a pull must do to it, by NumPy."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import kvtransfer as kt

if TYPE_CHECKING:
    from collections.abc import Sequence

Cache = npt.NDArray[np.uint32]
AXES = ("layer", "block", "token", "head", "element")
PLANAR_NHD = "plbthe"


# UCX transports that read another process's memory one-sidedly, for machines without an RDMA device: the same code of
# ours, another wire.
RDMA_HERE = "cma,posix"


def shared(cache: Cache) -> Cache:
    """The same, in the same order, in memory that other processes can map."""
    copy: Cache = np.lib.stride_tricks.as_strided(kt.empty((cache.size,), cache.dtype), cache.shape, cache.strides)
    copy[...] = cache
    return copy


@dataclass(frozen=True, slots=True)
class Layout:
    """Shape (part, layer, block, token, head, element) of a cache; part 0 is k, part 1 is v.

    `order` says how it lies in memory, outermost axis first, by the axes' first letters.

    A shard's first layer and head are not the whole's. Shards with the same `replica`, if not 0, hold the same bytes.
    """

    layers: int = 2
    blocks: int = 32
    block_size: int = 16
    heads: int = 2
    width: int = 16
    first_layer: int = 0
    first_head: int = 0
    replica: int = 0
    order: str = PLANAR_NHD

    def make(self, seed: int) -> Cache:
        """A cache with random contents."""
        shape = (2, self.layers, self.blocks, self.block_size, self.heads, self.width)
        cache = np.random.default_rng(seed).integers(0, 1 << 32, size=shape, dtype=np.uint32)
        axes = [PLANAR_NHD.index(letter) for letter in self.order]
        return np.ascontiguousarray(cache.transpose(axes)).transpose(np.argsort(axes))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


# 32 MiB: a pull of it takes a while on every lane.
BIG = Layout(layers=4, blocks=256, block_size=16, heads=8, width=32)


def publish(engine: kt.Engine, cache: Cache, *, readonly: bool = False, layout: Layout | None = None) -> None:
    """Register the cache and publish its two components, as those of a shard if the layout says so."""
    components = [
        engine.register_tensor(name, cache[part], AXES, readonly=readonly) for part, name in enumerate(("k", "v"))
    ]
    engine.publish(kt.TensorMap([_of_shard(one, layout or Layout()) for one in components]))


def _of_shard(whole: kt.Component, layout: Layout) -> kt.Component:
    first = {"layer": layout.first_layer, "head": layout.first_head}
    axes = [
        kt.Axis(axis.name, axis.extent, axis.stride, [(first[axis.name], axis.extent, 1)])
        if first.get(axis.name)
        else axis
        for axis in whole.axes
    ]
    return kt.Component(
        whole.name,
        axes,
        dtype=whole.dtype,
        item_bytes=whole.item_bytes,
        region=whole.region,
        offset=whole.offset,
        replica_group=layout.replica,
    )


def after_pull(
    local: Cache, remote: Cache, local_ids: Sequence[int], remote_ids: Sequence[int], start: int, stop: int
) -> Cache:
    """The local cache as a pull of positions [start, stop) must leave it."""
    expected = local.copy()
    here, there = local.shape[3], remote.shape[3]
    for position in range(start, stop):
        target = (slice(None), slice(None), local_ids[position // here], position % here)
        source = (slice(None), slice(None), remote_ids[position // there], position % there)
        expected[target] = remote[source]
    return expected


def digest(cache: Cache) -> str:
    """Equal for equal caches, and short enough for a pipe."""
    return hashlib.sha256(cache.tobytes()).hexdigest()
