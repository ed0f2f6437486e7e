# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A small cache on a GPU, in one of the layouts that engines use, and what it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import kvtransfer as kt

Bytes = npt.NDArray[np.uint8]

# Order of the axes in memory. The logical order is that of the first.
ORDERS = {
    "blocks": ("layer", "block", "token", "head", "element"),
    "heads": ("layer", "block", "head", "token", "element"),
    "layers-inside": ("block", "layer", "token", "head", "element"),
}
LOGICAL = ORDERS["blocks"]


@dataclass(frozen=True)
class GpuLayout:
    """Extents of a cache of bytes, and the order of its axes in memory.

    Attributes:
        before: bytes of the allocation before the cache, so that it does not begin where that does.
    """

    order: str = "blocks"
    layer: int = 2
    block: int = 8
    token: int = 4
    head: int = 2
    element: int = 64
    before: int = 0

    @property
    def size(self) -> int:
        """Bytes of the allocation."""
        return self.before + int(np.prod([getattr(self, axis) for axis in LOGICAL]))

    def component(self, region: int) -> kt.Component:
        """What it looks like to an engine."""
        order, stride = ORDERS[self.order], 1
        strides = {}
        for axis in reversed(order):
            strides[axis] = stride
            stride *= getattr(self, axis)
        axes = [kt.Axis(axis, getattr(self, axis), strides[axis]) for axis in LOGICAL]
        return kt.Component(
            "kv", axes, dtype="uint8", item_bytes=1, region=region, offset=self.before, memory=kt.MemoryKind.CUDA
        )

    def random(self, seed: int) -> Bytes:
        """Contents, in the logical order of axes."""
        shape = [getattr(self, axis) for axis in LOGICAL]
        return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)

    def to_memory(self, contents: Bytes) -> bytes:
        """What the allocation holds for these contents."""
        order = [LOGICAL.index(axis) for axis in ORDERS[self.order]]
        return bytes(self.before) + contents.transpose(order).tobytes()

    def from_memory(self, memory: bytes) -> Bytes:
        """The other way round."""
        order = ORDERS[self.order]
        stored = np.frombuffer(memory, dtype=np.uint8)[self.before :].reshape([getattr(self, axis) for axis in order])
        return stored.transpose([order.index(axis) for axis in LOGICAL]).copy()

    def as_json(self) -> dict[str, Any]:
        """For a command to another process."""
        return dict(vars(self))
