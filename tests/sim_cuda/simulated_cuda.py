# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The simulated CUDA driver, called as the core calls a driver: by ctypes, with raw handles and addresses."""

from __future__ import annotations

import ctypes
import os
from collections import namedtuple
from pathlib import Path

INVALID_VALUE, OUT_OF_MEMORY, NOT_INITIALIZED, NO_DEVICE, INVALID_DEVICE = 1, 2, 3, 100, 101
INVALID_IMAGE, INVALID_CONTEXT, MAP_FAILED, INVALID_HANDLE, NOT_FOUND = 200, 201, 205, 400, 500
NOT_READY, ILLEGAL_ADDRESS, CONTEXT_IS_DESTROYED, MISALIGNED_ADDRESS = 600, 700, 709, 716
NOT_PERMITTED, NOT_SUPPORTED = 800, 801
KINDS = (
    *("allocations", "host_allocations", "mappings", "imported", "handles", "reservations"),
    *("streams", "events", "modules", "contexts", "uses_after_free", "freed_while_open"),
)
GRANULARITY = 2 << 20
THREADS = 1024

Box = namedtuple("Box", "source target source_row target_row source_plane target_plane row_bytes rows planes width")
Tile = namedtuple("Tile", "boxes bases width")


class CudaError(Exception):
    """A driver function did not return CUDA_SUCCESS."""

    def __init__(self, function: str, result: int) -> None:
        super().__init__(f"{function}: {result}")
        self.result = result


class Properties(ctypes.Structure):
    """CUmemAllocationProp of memory on a GPU."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("handle_types", ctypes.c_int),
        ("location_type", ctypes.c_int),
        ("device", ctypes.c_int),
        ("windows", ctypes.c_void_p),
        ("flags", ctypes.c_ubyte * 8),
    )


class Access(ctypes.Structure):
    """CUmemAccessDesc of a GPU."""

    _fields_ = (("location_type", ctypes.c_int), ("device", ctypes.c_int), ("flags", ctypes.c_int))


class IpcHandle(ctypes.Structure):
    """CUipcMemHandle."""

    _fields_ = (("data", ctypes.c_ubyte * 64),)


class Attributes(ctypes.Structure):
    """CUmemcpyAttributes."""

    _fields_ = (("order", ctypes.c_int), ("hints", ctypes.c_int * 4), ("flags", ctypes.c_uint))


HostFunction = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def library() -> Path:
    """$KVDIRECT_SIM_CUDA, else where `make cpp-tests` builds it."""
    root = Path(__file__).parents[2]
    return Path(os.environ.get("KVDIRECT_SIM_CUDA", root / "build/cpp/tests/cpp/sim_cuda/libkvdirect_sim_cuda.so"))


class Cuda:
    """The driver. Calls are by the names in the library; integers are passed in 64 bits, which all of them fit."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(str(library()))

    def __call__(self, function: str, *arguments: object) -> None:
        wide = [ctypes.c_uint64(value) if isinstance(value, int) else value for value in arguments]
        result = self._library[function](*wide)
        if result != 0:
            raise CudaError(function, result)

    def number(self, function: str, *arguments: object) -> int:
        """What a function writes to its first argument."""
        out = ctypes.c_uint64()
        self(function, ctypes.byref(out), *arguments)
        return out.value

    def live(self, kind: str) -> int:
        count = self._library.kvdirect_sim_live
        count.restype = ctypes.c_long
        return int(count(kind.encode()))

    def delay(self, microseconds: int) -> None:
        self._library.kvdirect_sim_set_delay_us(microseconds)

    def enter(self, device: int = 0) -> None:
        """The primary context, retained and made current."""
        self("cuInit", 0)
        self("cuCtxPushCurrent_v2", self.number("cuDevicePrimaryCtxRetain", device))

    def leave(self, device: int = 0) -> None:
        self.number("cuCtxPopCurrent_v2")
        self("cuDevicePrimaryCtxRelease_v2", device)

    def stream(self) -> int:
        return self.number("cuStreamCreateWithPriority", 1, 0)

    def alloc(self, size: int) -> int:
        return self.number("cuMemAlloc_v2", size)

    def write(self, address: int, data: bytes, stream: int = 0) -> None:
        self("cuMemcpyHtoDAsync_v2", address, data, len(data), stream)

    def read(self, address: int, size: int, stream: int = 0) -> bytes:
        out = ctypes.create_string_buffer(size)
        self("cuMemcpyDtoHAsync_v2", out, address, size, stream)
        return out.raw

    def attribute(self, attribute: int, address: int) -> int:
        return self.number("cuPointerGetAttribute", attribute, address)

    def export(self, address: int) -> IpcHandle:
        handle = IpcHandle()
        self("cuIpcGetMemHandle", ctypes.byref(handle), address)
        return handle

    def open(self, handle: IpcHandle) -> int:
        return self.number("cuIpcOpenMemHandle_v2", handle, 1)

    def address_range(self, address: int) -> tuple[int, int]:
        base, size = ctypes.c_uint64(), ctypes.c_uint64()
        self("cuMemGetAddressRange_v2", ctypes.byref(base), ctypes.byref(size), address)
        return base.value, size.value

    # ---- VMM memory

    def create(self, size: int, handle_types: int = 1) -> int:
        return self.number("cuMemCreate", size, ctypes.byref(Properties(1, handle_types, 1, 0)), 0)

    def reserve(self, size: int) -> int:
        return self.number("cuMemAddressReserve", size, 0, 0, 0)

    def map(self, address: int, size: int, handle: int) -> None:
        self("cuMemMap", address, size, 0, handle, 0)

    def allow(self, address: int, size: int, flags: int = 3) -> None:
        self("cuMemSetAccess", address, size, ctypes.byref(Access(1, 0, flags)), 1)

    # ---- the kernel

    def kernel(self, name: bytes = b"kvdirect_copy_tiles") -> tuple[int, int]:
        """A module and its function."""
        module = self.number("cuModuleLoadData", b"\x50\xed\x55\xba" + bytes(60))
        return module, self.number("cuModuleGetFunction", module, name)

    def launch(self, function: int, stream: int, tiles: int, counts: tuple[int, int], *, blocks: int = 2) -> None:
        """Of tiles that put_tiles() has put in device memory."""
        values = (ctypes.c_uint64(tiles), ctypes.c_uint(counts[0]), ctypes.c_uint(counts[1]))
        pointers = (ctypes.c_void_p * 3)(*(ctypes.addressof(value) for value in values))
        self("cuLaunchKernel", function, blocks, 1, 1, THREADS, 1, 1, 0, stream, pointers, None)
        # The launch has copied them.
        ctypes.memset(ctypes.addressof(values[0]), 0, 8)

    def put_tiles(self, at: int, tiles: list[Tile], stream: int = 0) -> tuple[int, int]:
        """The launch's counts."""
        heads, lists, units = b"", b"", 0
        first = at + 32 * len(tiles)
        for tile in tiles:
            boxes = first + len(lists)
            for box in tile.boxes:
                lists += b"".join(value.to_bytes(8, "little") for value in box[:6])
                lists += b"".join(value.to_bytes(4, "little") for value in box[6:])
            bases = first + len(lists)
            for source, target in tile.bases:
                lists += source.to_bytes(8, "little") + target.to_bytes(8, "little")
            heads += boxes.to_bytes(8, "little") + bases.to_bytes(8, "little")
            counts = (len(tile.boxes), len(tile.bases), units, tile.width)
            heads += b"".join(value.to_bytes(4, "little") for value in counts)
            units += len(tile.boxes) * len(tile.bases)
        self.write(at, heads + lists, stream)
        return len(tiles), units
