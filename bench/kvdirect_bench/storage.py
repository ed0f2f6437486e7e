# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Where a side's blocks lie: in host memory on the pages asked for, or on the GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from . import gpu, memory
from .device_pattern import DevicePattern
from .pattern import Pattern

if TYPE_CHECKING:
    from .workload import Scene

# On the GPU it is a tensor of PyTorch, which is not typed; both can be sliced, reshaped and asked for their address.
Bytes: TypeAlias = npt.NDArray[np.uint8]

ON_GPU = "gpu"


def take(scene: Scene, size: int) -> Bytes:
    """So many bytes.

    Raises:
        BenchError: There is no such memory here.
    """
    if scene.device == "cuda":
        taken: Bytes = gpu.allocate(size)
        return taken
    return memory.allocate(size, scene.pages)


def pattern_of(scene: Scene) -> Pattern | DevicePattern:
    """What fills and checks memory of that scene."""
    return DevicePattern(scene.unit_bytes) if scene.device == "cuda" else Pattern(scene.unit_bytes)


def settle(scene: Scene, taken: Bytes) -> None:
    """Have touched memory be what was asked for."""
    if scene.device == "cpu":
        memory.collapse(taken, scene.pages)


def kind_of(scene: Scene, taken: Bytes) -> str:
    """What kind of pages touched memory is on."""
    return ON_GPU if scene.device == "cuda" else memory.page_kind(taken)


def available(scene: Scene) -> int:
    """Bytes of such memory that can be had."""
    return gpu.free_bytes() if scene.device == "cuda" else memory.available()


def describe(device: str) -> str:
    """The header's word on the GPU."""
    return gpu.describe() if device == "cuda" else "none used"
