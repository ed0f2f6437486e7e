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
    from .workload import Workload

# On the GPU it is a tensor of PyTorch, which is not typed; both can be sliced, reshaped and asked for their address.
Bytes: TypeAlias = npt.NDArray[np.uint8]

ON_GPU = "gpu"


def take(workload: Workload, size: int) -> Bytes:
    """So many bytes.

    Raises:
        BenchError: There is no such memory here.
    """
    if workload.device == "cuda":
        taken: Bytes = gpu.allocate(size)
        return taken
    return memory.allocate(size, workload.pages)


def pattern_of(workload: Workload) -> Pattern | DevicePattern:
    """What fills and checks memory of that workload."""
    return DevicePattern(workload.unit_bytes) if workload.device == "cuda" else Pattern(workload.unit_bytes)


def settle(workload: Workload, taken: Bytes) -> None:
    """Have touched memory be what was asked for."""
    if workload.device == "cpu":
        memory.collapse(taken, workload.pages)


def kind_of(workload: Workload, taken: Bytes) -> str:
    """What kind of pages touched memory is on."""
    return ON_GPU if workload.device == "cuda" else memory.page_kind(taken)


def available(workload: Workload) -> int:
    """Bytes of such memory that can be had."""
    return gpu.free_bytes() if workload.device == "cuda" else memory.available()


def on_gpu(workload: Workload) -> bool:
    """Whether the host cannot read it: a stand-in for a GPU, in tests, has the host's memory."""
    return workload.device == "cuda" and not gpu.is_stand_in()


def describe(device: str) -> str:
    """The header's word on the GPU."""
    return gpu.describe() if device == "cuda" else "none used"
