# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The simulated CUDA driver: what the tests of lane cuda_ipc rest on where there is no GPU."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import simulated_cuda as sim
from simulated_cuda import Box, Cuda, CudaError, Tile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(
    not sim.library().exists(), reason=f"needs the simulated CUDA driver (make cpp-tests builds it): {sim.library()}"
)
MIB = 1 << 20


@pytest.fixture
def cuda() -> Iterator[Cuda]:
    driver = Cuda()
    before = {kind: driver.live(kind) for kind in sim.KINDS}
    driver.enter()
    yield driver
    # A context takes with it what it has; tests give back all by themselves.
    left = {kind: driver.live(kind) for kind in sim.KINDS}
    driver.leave()
    assert left == {**before, "contexts": before["contexts"] + 1}


def start(script: str, *arguments: str, fds: tuple[int, ...] = (), **settings: str) -> subprocess.Popen[str]:
    """A process that has entered the driver, as `cuda`, and then does what the script says."""
    head = "import ctypes, os, sys\nimport simulated_cuda as sim\nfrom simulated_cuda import *\ncuda = Cuda()\n"
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return subprocess.Popen(
        [sys.executable, "-c", head + script, *arguments],
        env={**environment, "PYTHONPATH": str(Path(__file__).parent), **settings},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=fds,
    )


def run(script: str, *arguments: str, fds: tuple[int, ...] = (), **settings: str) -> tuple[int, str, str]:
    with start(script, *arguments, fds=fds, **settings) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out.strip(), err


def refused(result: int, call: Callable[[], object]) -> None:
    with pytest.raises(CudaError) as caught:
        call()
    assert caught.value.result == result, caught.value


# ---- the kernel


def reference(source: np.ndarray, target: np.ndarray, tiles: list[Tile]) -> None:
    """What the kernel does, by addresses counted from each array's start."""
    for tile in tiles:
        for box in tile.boxes:
            for from_base, to_base in tile.bases:
                for plane in range(box.planes):
                    for row in range(box.rows):
                        at = box.source + from_base + row * box.source_row + plane * box.source_plane
                        to = box.target + to_base + row * box.target_row + plane * box.target_plane
                        target[to : to + box.row_bytes] = source[at : at + box.row_bytes]


def scene(width: int) -> list[Tile]:
    """Runs long enough to be unrolled, and a block of planes and rows that turns into rows and planes."""
    run_bytes = width * (32 * 8 * 2 + 37)
    runs = Box(32, 64, 0, 0, 0, 0, run_bytes, 1, 1, width)
    row = width * 7
    turned = Box(0, 4096 * 4, width * 9, row * 5, width * 9 * 6, row, row, 6, 5, width)
    many = Box(16, 16, width * 3, width * 2, 0, 0, width, 700, 1, width)
    return [
        Tile([runs], [(i * run_bytes, (6 - i) * (run_bytes + 48)) for i in range(7)], 16),
        Tile([turned], [(131072 + i * 8192, 131072 + (3 - i) * 8192 * 2) for i in range(4)], 16),
        Tile([many], [(524288 + i * 65536, 524288 + i * 65536) for i in range(3)], width),
    ]


def at(tiles: list[Tile], source: int, target: int) -> list[Tile]:
    return [
        tile._replace(
            boxes=[box._replace(source=box.source + source, target=box.target + target) for box in tile.boxes]
        )
        for tile in tiles
    ]


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("width", [16, 8, 4, 2, 1])
def test_the_kernel_copies_runs_rows_and_planes(cuda: Cuda, width: int, blocks: int) -> None:
    random = np.random.default_rng(width)
    source = random.integers(0, 256, MIB, dtype=np.uint8)
    expected = np.zeros(MIB, np.uint8)
    tiles = scene(width)
    reference(source, expected, tiles)
    memory = [cuda.alloc(MIB), cuda.alloc(MIB), cuda.alloc(65536)]
    cuda.write(memory[0], source.tobytes())
    cuda.write(memory[1], bytes(MIB))
    module, function = cuda.kernel()
    stream = cuda.stream()
    counts = cuda.put_tiles(memory[2], at(tiles, memory[0], memory[1]), stream)
    cuda("cuStreamSynchronize", 0)
    cuda.launch(function, stream, memory[2], counts, blocks=blocks)
    found = np.frombuffer(cuda.read(memory[1], MIB, stream), np.uint8)
    assert found.any()
    assert np.array_equal(found, expected)
    cuda("cuStreamDestroy_v2", stream)
    cuda("cuModuleUnload", module)
    for address in memory:
        cuda("cuMemFree_v2", address)


def test_a_tile_narrows_its_boxes(cuda: Cuda) -> None:
    """Bases that 16 does not divide: the boxes are of width 16, the tile of 4."""
    memory = cuda.alloc(65536)
    data = bytes(range(256)) * 8
    cuda.write(memory, data)
    module, function = cuda.kernel()
    box = Box(memory, memory + 8192, 0, 0, 0, 0, 1024, 1, 1, 16)
    counts = cuda.put_tiles(memory + 32768, [Tile([box], [(4, 12)], 4)])
    cuda.launch(function, 0, memory + 32768, counts)
    assert cuda.read(memory + 8192 + 12, 1024) == data[4:1028]
    cuda("cuModuleUnload", module)
    cuda("cuMemFree_v2", memory)


FAULTS = {
    "past the end": (Box(0, 4096, 0, 0, 0, 0, 8192, 1, 1, 16), "CUDA_ERROR_ILLEGAL_ADDRESS", sim.ILLEGAL_ADDRESS),
    "nowhere": (Box(-(1 << 30), 4096, 0, 0, 0, 0, 64, 1, 1, 16), "no memory is there", sim.ILLEGAL_ADDRESS),
    "last row": (Box(0, 4096, 16, 2044, 0, 0, 16, 3, 1, 4), "ends at", sim.ILLEGAL_ADDRESS),
    "misaligned": (Box(8, 4096, 0, 0, 0, 0, 64, 1, 1, 16), "does not divide", sim.MISALIGNED_ADDRESS),
}
LAUNCH = """
import json
cuda.enter()
memory, lists = cuda.alloc(8192), cuda.alloc(8192)
module, function = cuda.kernel()
boxes = [Box(*box) for box in json.loads(sys.argv[1])]
boxes = [box._replace(source=box.source + memory, target=box.target + memory) for box in boxes]
cuda.launch(function, 0, lists, cuda.put_tiles(lists, [Tile(boxes, [(0, 0)], 16)]))
for function, arguments in (("cuStreamSynchronize", [0]), ("cuMemFree_v2", [memory])):
    try:
        cuda(function, *arguments)
        print(0)
    except CudaError as error:
        print(error.result)
"""


@pytest.mark.parametrize("name", FAULTS)
def test_a_box_outside_memory_fails_the_context_for_good(name: str) -> None:
    box, message, result = FAULTS[name]
    code, out, err = run(LAUNCH, json.dumps([box]))
    assert code == 0, err
    assert out.split() == [str(result), str(result)]
    assert message in err


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([Box(0, 4096, 0, 0, 0, 0, 64, 1, 1, 16), Box(64, 4144, 0, 0, 0, 0, 64, 1, 1, 16)], "twice"),
        ([Box(0, 4096, 0, 0, 0, 0, 64, 1, 1, 16), Box(4096, 0, 0, 0, 0, 0, 16, 1, 1, 16)], "and writes them"),
        ([Box(0, 4096, 0, 0, 0, 0, 64, 0, 1, 16)], "no rows"),
        ([Box(0, 4096, 0, 0, 0, 0, 24, 1, 1, 16)], "no multiple of its width"),
        ([Box(0, 4096, 0, 0, 0, 0, 24, 1, 1, 3)], "width 3"),
    ],
)
def test_what_cuda_does_not_define_ends_the_process(boxes: list[Box], message: str) -> None:
    code, _, err = run(LAUNCH, json.dumps(boxes))
    assert code == -signal.SIGABRT, err
    assert "undefined behaviour" in err
    assert message in err


def test_guarded_memory_is_the_gpus_alone() -> None:
    script = """
cuda.enter()
memory = cuda.alloc(8192)
cuda.write(memory, bytes(range(256)) * 32)
module, function = cuda.kernel()
lists = cuda.alloc(4096)
box = Box(memory, memory + 4096 + 16, 0, 0, 0, 0, 64, 1, 1, 16)
cuda.launch(function, 0, lists, cuda.put_tiles(lists, [Tile([box], [(16, 32)], 16)]))
print(cuda.read(memory + 4096 + 48, 64) == bytes(range(16, 80)), flush=True)
ctypes.string_at(memory, 1)
"""
    code, out, _ = run(script, KVDIRECT_SIM_CUDA_GUARD="1")
    assert (code, out) == (-signal.SIGSEGV, "True")
    code, out, err = run(script)
    assert (code, out) == (0, "True"), err


# ---- streams


class Gate:
    """A host function that holds its stream until it is opened."""

    def __init__(self, cuda: Cuda, stream: int) -> None:
        self._opened = threading.Event()
        self.function = sim.HostFunction(lambda _: self._opened.wait(30) and None)
        cuda("cuLaunchHostFunc", stream, self.function, None)

    def open(self) -> None:
        self._opened.set()


def test_an_event_waits_for_what_its_stream_had(cuda: Cuda) -> None:
    slow, quick = cuda.stream(), cuda.stream()
    first, second = cuda.number("cuEventCreate", 2), cuda.number("cuEventCreate", 2)
    cuda("cuEventQuery", first)  # not recorded: done
    gate = Gate(cuda, slow)
    cuda("cuEventRecord", first, slow)
    cuda("cuEventRecord", second, quick)
    cuda("cuStreamSynchronize", quick)
    cuda("cuEventQuery", second)
    refused(sim.NOT_READY, lambda: cuda("cuEventQuery", first))
    # Only the last record counts.
    cuda("cuEventRecord", first, quick)
    cuda("cuStreamSynchronize", quick)
    cuda("cuEventQuery", first)
    gate.open()
    cuda("cuStreamSynchronize", slow)
    for event in (first, second):
        cuda("cuEventDestroy_v2", event)
    for stream in (slow, quick):
        cuda("cuStreamDestroy_v2", stream)


def test_pinned_memory_is_read_when_its_turn_comes_and_other_memory_at_once(cuda: Cuda) -> None:
    stream, memory = cuda.stream(), cuda.alloc(32)
    pinned = cuda.number("cuMemHostAlloc", 16, 0)
    other = ctypes.create_string_buffer(b"B" * 16, 16)
    ctypes.memset(pinned, ord("A"), 16)
    gate = Gate(cuda, stream)
    cuda("cuMemcpyHtoDAsync_v2", memory, pinned, 16, stream)
    cuda("cuMemcpyHtoDAsync_v2", memory + 16, other, 16, stream)
    ctypes.memset(pinned, ord("a"), 16)
    ctypes.memset(other, ord("b"), 16)
    gate.open()
    assert cuda.read(memory, 32, stream) == b"a" * 16 + b"B" * 16
    cuda("cuMemFreeHost", pinned)
    cuda("cuMemFree_v2", memory)
    cuda("cuStreamDestroy_v2", stream)


def test_work_is_late_by_the_delay_that_is_set(cuda: Cuda) -> None:
    stream, event = cuda.stream(), cuda.number("cuEventCreate", 2)
    cuda.delay(200_000)
    cuda("cuEventRecord", event, stream)
    refused(sim.NOT_READY, lambda: cuda("cuEventQuery", event))
    cuda("cuStreamSynchronize", stream)
    cuda.delay(0)
    cuda("cuEventQuery", event)
    cuda("cuEventDestroy_v2", event)
    cuda("cuStreamDestroy_v2", stream)


def test_host_functions_may_not_use_cuda(cuda: Cuda) -> None:
    results: list[int] = []

    def misuse(_: object) -> None:
        try:
            cuda.alloc(16)
        except CudaError as error:
            results.append(error.result)

    function = sim.HostFunction(misuse)
    cuda("cuLaunchHostFunc", 0, function, None)
    cuda("cuStreamSynchronize", 0)
    assert results == [sim.NOT_PERMITTED]


def test_memory_freed_before_its_work_ran_fails_the_context() -> None:
    script = """
cuda.enter()
stream, memory, pinned = cuda.stream(), cuda.alloc(4096), cuda.number("cuMemHostAlloc", 4096, 0)
cuda.delay(100000)
cuda("cuMemcpyHtoDAsync_v2", memory, pinned, 4096, stream)
cuda("cuMemFree_v2", memory)
try:
    cuda("cuStreamSynchronize", stream)
except CudaError as error:
    print(error.result)
"""
    code, out, err = run(script)
    assert (code, out) == (0, str(sim.ILLEGAL_ADDRESS)), err


def test_batches_of_copies(cuda: Cuda) -> None:
    stream, memory = cuda.stream(), cuda.alloc(4096)
    cuda.write(memory, bytes(range(256)) * 8, stream)
    cuda("cuStreamSynchronize", stream)

    def batch(copies: list[tuple[int, int, int]], to: int, order: int = 1) -> None:
        lists = [(ctypes.c_uint64 * len(copies))(*column) for column in zip(*copies, strict=True)]
        attributes, first = sim.Attributes(order), ctypes.c_uint64(0)
        cuda("cuMemcpyBatchAsync_v2", *lists, len(copies), ctypes.byref(attributes), ctypes.byref(first), 1, to)

    batch([(memory + 2048 + i * 32, memory + i * 64, 32) for i in range(8)], stream)
    found = cuda.read(memory + 2048, 256, stream)
    assert found == b"".join(bytes(range(i * 64 % 256, i * 64 % 256 + 32)) for i in range(8))
    refused(sim.INVALID_VALUE, lambda: batch([(memory + 2048, memory, 32)], 0))
    refused(sim.INVALID_VALUE, lambda: batch([(memory + 2048, memory, 32)], stream, order=0))
    refused(sim.INVALID_VALUE, lambda: batch([(memory + 2048, memory, 0)], stream))
    refused(sim.INVALID_VALUE, lambda: batch([(memory + 4080, memory, 32)], stream))
    cuda("cuMemFree_v2", memory)
    cuda("cuStreamDestroy_v2", stream)


# ---- between processes

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


# ---- what is refused


def test_vmm_memory_is_not_reached_without_access() -> None:
    script = """
cuda.enter()
address, handle = cuda.reserve(GRANULARITY), cuda.create(GRANULARITY)
cuda.map(address, GRANULARITY, handle)
cuda.allow(address, GRANULARITY, flags=int(sys.argv[1]))
print(cuda.read(address, 4))
cuda.write(address, b"data")
try:
    cuda("cuStreamSynchronize", 0)
except CudaError as error:
    print(error.result)
"""
    code, out, err = run(script, "3")
    assert code == 0, err
    assert str(sim.ILLEGAL_ADDRESS) not in out
    code, out, err = run(script, "1")
    assert code == 0, err
    assert out.endswith(str(sim.ILLEGAL_ADDRESS))
    assert "no such access" in err
    assert run(script, "0")[0] == 1


def test_bad_vmm_calls_are_refused(cuda: Cuda) -> None:
    size = sim.GRANULARITY
    handle, private, address = cuda.create(size), cuda.create(size, handle_types=0), cuda.reserve(2 * size)
    fd = ctypes.c_int(-1)

    def export(of: int, kind: int) -> None:
        cuda("cuMemExportToShareableHandle", ctypes.byref(fd), of, kind, 0)

    refused(sim.INVALID_VALUE, lambda: cuda.create(size + 4096))
    refused(sim.NOT_PERMITTED, lambda: cuda.create(size, handle_types=8))
    refused(sim.OUT_OF_MEMORY, lambda: cuda.create(1 << 50))
    refused(sim.INVALID_VALUE, lambda: export(private, 1))
    refused(sim.NOT_PERMITTED, lambda: export(handle, 8))
    refused(sim.INVALID_VALUE, lambda: cuda.map(address, 2 * size, handle))
    refused(sim.INVALID_VALUE, lambda: cuda.map(address + 4096, size, handle))
    refused(sim.INVALID_VALUE, lambda: cuda.map(address + 2 * size, size, handle))
    refused(sim.INVALID_VALUE, lambda: cuda.map(address, size, handle + 1))
    cuda.map(address, size, handle)
    refused(sim.INVALID_VALUE, lambda: cuda.map(address, size, handle))
    refused(sim.INVALID_VALUE, lambda: cuda.export(address))
    refused(sim.INVALID_VALUE, lambda: cuda("cuMemUnmap", address, 2 * size))
    refused(sim.INVALID_VALUE, lambda: cuda("cuMemFree_v2", address))
    refused(sim.INVALID_VALUE, lambda: cuda.number("cuMemImportFromShareableHandle", 0, 1))
    cuda("cuMemUnmap", address, size)
    cuda("cuMemAddressFree", address, 2 * size)
    cuda("cuMemRelease", handle)
    cuda("cuMemRelease", private)


def test_bad_calls_are_refused(cuda: Cuda) -> None:
    memory, stream, event = cuda.alloc(100), cuda.stream(), cuda.number("cuEventCreate", 2)
    host = cuda.number("cuMemHostAlloc", 100, 0)
    refused(sim.INVALID_VALUE, lambda: cuda.alloc(0))
    refused(sim.OUT_OF_MEMORY, lambda: cuda.alloc(1 << 50))
    refused(sim.INVALID_VALUE, lambda: cuda.write(memory + 50, bytes(51)))
    refused(sim.INVALID_VALUE, lambda: cuda.read(memory + 100, 1))
    refused(sim.INVALID_VALUE, lambda: cuda.read(host, 1))
    refused(sim.INVALID_VALUE, lambda: cuda("cuMemFree_v2", memory + 16))
    refused(sim.INVALID_VALUE, lambda: cuda("cuMemFree_v2", host))
    refused(sim.NOT_FOUND, lambda: cuda.address_range(memory + 100))
    refused(sim.INVALID_VALUE, lambda: cuda.attribute(2, ctypes.addressof(ctypes.create_string_buffer(8))))
    assert (cuda.attribute(2, memory), cuda.attribute(9, memory), cuda.attribute(10, memory)) == (2, 0, 1)
    assert cuda.attribute(2, host) == 1
    refused(sim.INVALID_VALUE, lambda: cuda.open(sim.IpcHandle()))
    refused(sim.INVALID_HANDLE, lambda: cuda("cuEventRecord", event, event))
    refused(sim.INVALID_HANDLE, lambda: cuda("cuStreamDestroy_v2", stream + 1))
    refused(sim.INVALID_IMAGE, lambda: cuda.number("cuModuleLoadData", bytes(64)))
    module = cuda.number("cuModuleLoadData", b"\x7fELF" + bytes(60))
    refused(sim.NOT_FOUND, lambda: cuda.number("cuModuleGetFunction", module, b"another"))
    function = cuda.number("cuModuleGetFunction", module, b"kvdirect_copy_tiles")
    refused(sim.INVALID_VALUE, lambda: cuda.launch(function, stream, memory, (0, 0), blocks=0))
    refused(sim.INVALID_HANDLE, lambda: cuda.launch(function + 1, stream, memory, (0, 0)))
    for give_back, handle, again in (
        ("cuModuleUnload", module, sim.INVALID_HANDLE),
        ("cuEventDestroy_v2", event, sim.INVALID_HANDLE),
        ("cuStreamDestroy_v2", stream, sim.INVALID_HANDLE),
        ("cuMemFreeHost", host, sim.INVALID_VALUE),
        ("cuMemFree_v2", memory, sim.INVALID_VALUE),
    ):
        cuda(give_back, handle)
        refused(again, lambda name=give_back, value=handle: cuda(name, value))
    refused(sim.INVALID_HANDLE, lambda: cuda("cuEventQuery", event))
    refused(sim.INVALID_HANDLE, lambda: cuda("cuStreamSynchronize", stream))


def test_calls_need_a_context_of_the_thread(cuda: Cuda) -> None:
    event = cuda.number("cuEventCreate", 2)
    results: list[int] = []

    def elsewhere() -> None:
        cuda("cuEventQuery", event)  # needs none
        for call in (lambda: cuda.alloc(16), cuda.stream, lambda: cuda("cuEventDestroy_v2", event)):
            try:
                call()
            except CudaError as error:
                results.append(error.result)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(30)
    assert results == [sim.INVALID_CONTEXT] * 3
    cuda("cuEventDestroy_v2", event)


def test_cuinit_comes_first_and_a_forked_child_has_no_cuda() -> None:
    script = """
def result(call):
    try:
        call()
    except CudaError as error:
        return error.result
    return 0
print(result(lambda: cuda.number("cuDevicePrimaryCtxRetain", 0)))
cuda.enter()
print(result(lambda: cuda.alloc(16)), flush=True)
if os.fork() == 0:
    os._exit(result(lambda: cuda.alloc(16)) + 10 * result(lambda: cuda("cuInit", 0)))
print(os.waitstatus_to_exitcode(os.wait()[1]))
cuda("cuDevicePrimaryCtxRelease_v2", 0)
print(result(lambda: cuda.alloc(16)))
"""
    code, out, err = run(script)
    assert code == 0, err
    assert list(map(int, out.split())) == [sim.NOT_INITIALIZED, 0, 33, sim.CONTEXT_IS_DESTROYED]
    assert "1 allocations" in err


def test_gpus_are_as_the_environment_says() -> None:
    script = """
try:
    cuda("cuInit", 0)
    identifiers = [ctypes.create_string_buffer(16) for _ in range(2)]
    for device, identifier in enumerate(identifiers):
        cuda("cuDeviceGetUuid_v2", identifier, device)
        print(identifier.raw[15])
except CudaError as error:
    print(error.result)
"""
    one, both = str(sim.INVALID_DEVICE), {"KVDIRECT_SIM_GPUS": "2"}
    assert run(script)[1].split() == ["0", one]
    assert run(script, **both)[1].split() == ["0", "1"]
    assert run(script, **both, CUDA_VISIBLE_DEVICES="1,0")[1].split() == ["1", "0"]
    assert run(script, **both, CUDA_VISIBLE_DEVICES="1")[1].split() == ["1", one]
    assert run(script, CUDA_VISIBLE_DEVICES="")[1].split() == [str(sim.NO_DEVICE)]


def test_what_is_left_at_the_end_is_reported(tmp_path: Path) -> None:
    report = tmp_path / "report"
    code, _, err = run("cuda.enter()\ncuda.alloc(16)\ncuda.stream()", KVDIRECT_SIM_CUDA_REPORT=str(report))
    assert code == 0, err
    [line] = map(json.loads, report.read_text().splitlines())
    assert line.pop("process") > 0
    assert line == {**dict.fromkeys(sim.KINDS, 0), "allocations": 1, "streams": 1, "contexts": 1}
