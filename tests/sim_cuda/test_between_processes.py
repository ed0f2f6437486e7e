# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The simulated driver between processes: memory of one that another opens."""

from __future__ import annotations

import ctypes
import os

import simulated_cuda as sim
from driver_process import NEEDS_DRIVER, refused, run, start
from simulated_cuda import Cuda

pytestmark = NEEDS_DRIVER


OWNER = """
cuda.enter()
memory = cuda.alloc(5000)
cuda.write(memory, bytes(range(250)) * 20)
cuda("cuStreamSynchronize", 0)
print(bytes(cuda.export(memory + 100).data).hex(), flush=True)
sys.stdin.readline()
"""


def handle_of(text: str) -> sim.IpcHandle:
    return sim.IpcHandle.from_buffer_copy(bytes.fromhex(text))


def test_memory_of_another_process_is_opened_and_outlives_it(cuda: Cuda) -> None:
    with start(OWNER) as owner:
        assert owner.stdout is not None
        handle = handle_of(owner.stdout.readline())
        address = cuda.open(handle)
        assert cuda.open(handle) == address
        assert cuda.address_range(address + 4999) == (address, 5000)
        assert cuda.attribute(10, address) == 0  # not to be passed on
        assert cuda.read(address, 5000) == bytes(range(250)) * 20
        refused(sim.INVALID_VALUE, lambda: cuda.export(address))
        owner.kill()
    assert cuda.read(address, 5000) == bytes(range(250)) * 20
    assert cuda.live("imported") == 1
    cuda("cuIpcCloseMemHandle", address)
    assert cuda.live("imported") == 1
    cuda("cuIpcCloseMemHandle", address)
    refused(sim.INVALID_VALUE, lambda: cuda("cuIpcCloseMemHandle", address))
    refused(sim.MAP_FAILED, lambda: cuda.open(handle))


def test_what_one_process_writes_another_reads(cuda: Cuda) -> None:
    memory = cuda.alloc(4096)
    script = """
cuda.enter()
address = cuda.open(IpcHandle.from_buffer_copy(bytes.fromhex(sys.argv[1])))
cuda.write(address + 1000, b"hello")
cuda("cuStreamSynchronize", 0)
"""
    handle = cuda.export(memory)
    code, _, err = run(script, bytes(handle.data).hex())
    assert code == 0, err
    assert cuda.read(memory + 1000, 5) == b"hello"
    refused(sim.INVALID_CONTEXT, lambda: cuda.open(handle))  # of this very process
    cuda("cuMemFree_v2", memory)


def test_use_of_memory_that_its_owner_freed_is_counted() -> None:
    owner = OWNER + "cuda('cuMemFree_v2', memory)\nprint('freed', flush=True)\nsys.stdin.readline()\n"
    reader = """
cuda.enter()
address = cuda.open(IpcHandle.from_buffer_copy(bytes.fromhex(sys.argv[1])))
cuda.read(address, 16)
print(cuda.live("uses_after_free"), flush=True)
sys.stdin.readline()
cuda.read(address, 16)
print(cuda.live("uses_after_free"), flush=True)
"""
    with start(owner) as first:
        assert first.stdout is not None
        assert first.stdin is not None
        handle = first.stdout.readline().strip()
        with start(reader, handle) as second:
            assert second.stdout is not None
            assert second.stdin is not None
            assert second.stdout.readline().strip() == "0"
            print(file=first.stdin, flush=True)
            assert first.stdout.readline().strip() == "freed"
            print(file=second.stdin, flush=True)
            assert second.stdout.readline().strip() == "1"
        print(file=first.stdin, flush=True)


def test_vmm_memory_goes_over_as_a_descriptor(cuda: Cuda) -> None:
    """Two pieces, one range; the other process maps them in one range too."""
    size = sim.GRANULARITY
    address = cuda.reserve(3 * size)
    fds = []
    for i in range(2):
        handle = cuda.create(size)
        cuda.map(address + i * size, size, handle)
        fd = ctypes.c_int()
        cuda("cuMemExportToShareableHandle", ctypes.byref(fd), handle, 1, 0)
        fds.append(fd.value)
        cuda("cuMemRelease", handle)
    refused(sim.INVALID_VALUE, lambda: cuda.allow(address, 3 * size))
    cuda.allow(address, 2 * size)
    assert cuda.address_range(address + size + 5) == (address + size, size)
    assert (cuda.attribute(10, address), cuda.attribute(14, address)) == (0, 1)
    assert (cuda.attribute(11, address + size), cuda.attribute(12, address)) == (address, 3 * size)
    cuda.write(address + size - 4, b"spanning")
    script = """
cuda.enter()
size = sim.GRANULARITY
address = cuda.reserve(2 * size)
for i, fd in enumerate(map(int, sys.argv[1:])):
    handle = cuda.number("cuMemImportFromShareableHandle", fd, 1)
    cuda.map(address + i * size, size, handle)
    cuda("cuMemRelease", handle)
cuda.allow(address, 2 * size)
print(cuda.read(address + size - 4, 8).decode())
"""
    code, out, err = run(script, *map(str, fds), fds=tuple(fds))
    assert (code, out) == (0, "spanning"), err
    # The handle can be had again from the mapping.
    handle = cuda.number("cuMemRetainAllocationHandle", ctypes.c_void_p(address + 7))
    properties = sim.Properties()
    cuda("cuMemGetAllocationPropertiesFromHandle", ctypes.byref(properties), handle)
    assert (properties.type, properties.handle_types, properties.location_type) == (1, 1, 1)
    cuda("cuMemRelease", handle)
    refused(sim.INVALID_VALUE, lambda: cuda("cuMemUnmap", address, size // 2))
    refused(sim.INVALID_VALUE, lambda: cuda("cuMemAddressFree", address, 3 * size))
    for i in range(2):
        cuda("cuMemUnmap", address + i * size, size)
    cuda("cuMemAddressFree", address, 3 * size)
    for fd in fds:
        os.close(fd)
