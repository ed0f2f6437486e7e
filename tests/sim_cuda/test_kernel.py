# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The copy kernel on the simulated driver: what it copies, and what it may not."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
import simulated_cuda as sim
from driver_process import NEEDS_DRIVER, run
from simulated_cuda import Box, Cuda, Tile

pytestmark = NEEDS_DRIVER
MIB = 1 << 20


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
