# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the benchmark uses of PyTorch, for processes that find this folder on PYTHONPATH.

Tensors are in memory of the simulated CUDA driver; NumPy computes, at once: the simulated GPU's memory is the host's.
"""

# ruff: noqa: ANN401  (as in PyTorch, much is Any)

from __future__ import annotations

import ctypes
import os
import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from kvtransfer import testing

testing.use_cuda_driver(os.environ["KVDIRECT_SIM_CUDA"])

__version__ = "0 (simulated)"
version = SimpleNamespace(cuda="13.0")
is_stand_in = True
uint8, int64, bfloat16 = np.uint8, np.int64, np.float32


class Tensor(np.ndarray):
    """An array with the names that PyTorch has for what it can do; `_memory` keeps what it lies in."""

    _memory: Any = None
    device = SimpleNamespace(type="cuda")
    layout = "torch.strided"

    def __array_finalize__(self, parent: Any) -> None:
        self._memory = getattr(parent, "_memory", None)

    def untyped_storage(self) -> SimpleNamespace:
        address, length = self._memory.address, self._memory.size
        return SimpleNamespace(data_ptr=lambda: address, nbytes=lambda: length)

    def storage_offset(self) -> int:
        return (self.ctypes.data - self._memory.address) // self.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.__array_interface__, "version": 3}

    def element_size(self) -> int:
        return self.itemsize

    def stride(self) -> tuple[int, ...]:
        return tuple(step // self.itemsize for step in self.strides)

    def is_contiguous(self) -> bool:
        return self.flags.c_contiguous

    def is_conj(self) -> bool:
        return False

    is_neg = is_conj

    def fill_(self, value: int) -> None:
        self.fill(value)

    def copy_(self, other: Tensor) -> None:
        np.copyto(self, other)

    def to(self, device: str) -> Tensor:
        assert device == "cuda"
        return self

    def index_select(self, axis: int, which: Any) -> Any:
        return np.take(self, which, axis=axis)


def empty(*shape: int, dtype: Any, device: str) -> Tensor:
    assert device == "cuda"
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = testing.device_bytes(size)
    address = memory.__cuda_array_interface__["data"][0]
    raw = np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype=dtype)
    made = raw.reshape(shape).view(Tensor)
    made._memory = SimpleNamespace(address=address, size=size, held=memory)
    return made


def empty_like(other: Tensor) -> Tensor:
    return empty(*other.shape, dtype=other.dtype, device="cuda")


def randn(rows: int, columns: int, *, device: str, dtype: Any) -> Tensor:
    made = empty(rows, columns, dtype=dtype, device=device)
    made[:] = np.random.default_rng(1).standard_normal((rows, columns))
    return made


def from_numpy(array: Any) -> Tensor:
    return array.view(Tensor)


def matmul(left: Any, right: Any, *, out: Any) -> None:
    np.matmul(left, right, out=out)


def bitwise_xor(left: Any, right: Any, *, out: Any) -> None:
    np.bitwise_xor(left, right, out=out)


def count_nonzero(values: Any) -> int:
    return int(np.count_nonzero(values))


class _Event:
    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self._at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, later: _Event) -> float:
        return (later._at - self._at) * 1000


cuda = SimpleNamespace(
    Event=_Event,
    is_available=lambda: True,
    synchronize=lambda: None,
    mem_get_info=lambda: (64 << 30, 80 << 30),
    get_device_name=lambda _: "a simulated GPU",
    get_device_properties=lambda _: SimpleNamespace(multi_processor_count=132),
)
