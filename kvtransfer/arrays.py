# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Where an array's bytes are: NumPy arrays, torch tensors, CUDA arrays, buffers; and integer tables."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .errors import ConfigError, PlanError

if TYPE_CHECKING:
    from collections.abc import Sequence

IntTable: TypeAlias = npt.NDArray[np.int64]
IntArray: TypeAlias = "npt.NDArray[np.integer[Any]] | Sequence[int]"
# Of a pull, which carries nothing of a local table that is None.
Tables: TypeAlias = "Sequence[IntArray | None]"


@dataclass(frozen=True, slots=True)
class Memory:
    """An array's place in memory.

    Attributes:
        address: Of the storage's first byte.
        length: Bytes of the whole storage, of which the array may be a view.
        offset: Bytes from `address` to the array's element 0.
        shape: Elements per axis.
        strides: Bytes between neighbours per axis.
        item_bytes: Bytes of one element.
        dtype: Name of the element type, the same for NumPy and torch ("float32", "bfloat16").
        contiguous: The array is C-contiguous.
        readonly: The memory must not be written.
        owner: Keeps the memory alive.
        cuda: It is on a GPU.
    """

    address: int
    length: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    item_bytes: int
    dtype: str
    contiguous: bool
    readonly: bool
    owner: object
    cuda: bool = False

    @property
    def own_bytes(self) -> int:
        """Bytes of the elements themselves."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.item_bytes


def memory_of(buffer: object, operation: str) -> Memory:
    """Where `buffer` lives.

    Args:
        buffer: A NumPy array, a torch tensor on a CPU or a CUDA GPU, or anything with the buffer protocol,
            `__array_interface__` or `__cuda_array_interface__`.
        operation: Named in errors.

    Raises:
        ConfigError: It is on another kind of device, not plain memory, or empty.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(buffer, torch.Tensor):
        memory = _of_tensor(buffer, operation)
    elif hasattr(buffer, "__cuda_array_interface__"):
        memory = _of_cuda_array(buffer, operation)
    else:
        memory = _of_array(_as_array(buffer, operation), operation)
    if memory.own_bytes == 0:
        raise ConfigError(f"buffer of shape {memory.shape} holds no bytes", operation=operation)
    return memory


def int_table(values: object, name: str, operation: str) -> IntTable:
    """A block table as a C-contiguous int64 array; no copy is made of one that is that already.

    Raises:
        PlanError: Not one-dimensional, not integers, or an id that does not fit.
    """
    array = values if isinstance(values, np.ndarray) else np.asarray(values)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size > 0):
        found = f"has dtype {array.dtype} and shape {array.shape}"
        raise PlanError(f"{name} {found}, expected a one-dimensional array of integers", operation=operation)
    if array.dtype == np.uint64 and array.size > 0 and int(array.max()) > np.iinfo(np.int64).max:
        raise PlanError(f"{name}: entry {array.argmax()} is {array.max()}, no block id", operation=operation)
    return np.ascontiguousarray(array, dtype=np.int64)


def tables_or_none(values: Sequence[IntArray | None], name: str, operation: str) -> list[IntTable | None]:
    """As `int_tables`, for a pull, which leaves out the tables that are None."""
    if isinstance(values, np.ndarray) and values.ndim == 1:
        return list(int_tables(values, name, operation))
    return [None if table is None else int_table(table, f"{name}[{i}]", operation) for i, table in enumerate(values)]


def int_tables(values: Sequence[IntArray], name: str, operation: str) -> list[IntTable]:
    """One table per element of `values`; see `int_table`."""
    if isinstance(values, np.ndarray) and values.ndim == 1:
        raise PlanError(f"{name} is one array, expected a sequence of them", operation=operation, hint=f"Use [{name}]")
    return [int_table(table, f"{name}[{i}]", operation) for i, table in enumerate(values)]


def _as_array(buffer: object, operation: str) -> npt.NDArray[Any]:
    try:
        if isinstance(buffer, np.ndarray):
            return buffer
        if hasattr(buffer, "__array_interface__"):
            return np.asarray(buffer)
        return np.asarray(memoryview(buffer))  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"a {type(buffer).__name__} has no memory that can be registered",
            operation=operation,
            status=str(error),
            hint="Give a NumPy array, a torch tensor, a CUDA array, or an object with the buffer protocol",
        ) from error


def _of_array(array: npt.NDArray[Any], operation: str) -> Memory:
    if array.dtype.hasobject:
        raise ConfigError(f"dtype {array.dtype} holds Python objects, not bytes", operation=operation)
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    low, high = _byte_bounds(root.__array_interface__["data"][0], root.shape, root.strides, root.itemsize)
    address = array.__array_interface__["data"][0]
    return Memory(
        address=low,
        length=high - low,
        offset=address - low,
        shape=array.shape,
        strides=array.strides,
        item_bytes=array.itemsize,
        dtype=array.dtype.name if array.dtype.isnative else array.dtype.str,
        contiguous=array.flags.c_contiguous,
        readonly=not array.flags.writeable,
        owner=array,
    )


def _byte_bounds(address: int, shape: tuple[int, ...], strides: tuple[int, ...], item: int) -> tuple[int, int]:
    low = high = address
    for extent, stride in zip(shape, strides, strict=True):
        reach = (extent - 1) * stride if extent else 0
        low, high = low + min(reach, 0), high + max(reach, 0)
    return low, high + item


def _of_tensor(tensor: Any, operation: str) -> Memory:  # noqa: ANN401  (torch is not imported here)
    if tensor.device.type not in {"cpu", "cuda"}:
        raise ConfigError(
            f"a tensor on {tensor.device} cannot be registered",
            operation=operation,
            hint="Keep it on a CPU or a CUDA GPU, or copy it there",
        )
    if str(tensor.layout) != "torch.strided" or tensor.is_conj() or tensor.is_neg():
        raise ConfigError(f"a tensor of layout {tensor.layout} has no plain memory", operation=operation)
    storage = tensor.untyped_storage()
    item = tensor.element_size()
    return Memory(
        address=storage.data_ptr(),
        length=storage.nbytes(),
        offset=tensor.storage_offset() * item,
        shape=tuple(tensor.shape),
        strides=tuple(stride * item for stride in tensor.stride()),
        item_bytes=item,
        dtype=str(tensor.dtype).removeprefix("torch."),
        contiguous=tensor.is_contiguous(),
        readonly=False,
        owner=(tensor, storage),
        cuda=tensor.device.type == "cuda",
    )


def _of_cuda_array(array: Any, operation: str) -> Memory:  # noqa: ANN401  (whoever has the interface)
    interface = array.__cuda_array_interface__
    try:
        kind, shape, (address, readonly) = np.dtype(interface["typestr"]), tuple(interface["shape"]), interface["data"]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"a {type(array).__name__} has a __cuda_array_interface__ without typestr, shape or data",
            operation=operation,
            status=str(error),
        ) from error
    if kind.hasobject or interface.get("mask") is not None:
        raise ConfigError("a CUDA array with a mask, or of objects, has no plain memory", operation=operation)
    dense = tuple(kind.itemsize * int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape)))
    strides = tuple(interface.get("strides") or dense)
    low, high = _byte_bounds(address, shape, strides, kind.itemsize)
    return Memory(
        address=low,
        length=high - low,
        offset=address - low,
        shape=shape,
        strides=strides,
        item_bytes=kind.itemsize,
        dtype=kind.name if kind.isnative else kind.str,
        contiguous=strides == dense,
        readonly=bool(readonly),
        owner=array,
        cuda=True,
    )
