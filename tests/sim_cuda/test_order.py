# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the simulated driver does when: streams, events, delays, and memory that is read in its turn."""

from __future__ import annotations

import ctypes
import threading

import simulated_cuda as sim
from driver_process import NEEDS_DRIVER, refused, run
from simulated_cuda import Cuda, CudaError

pytestmark = NEEDS_DRIVER


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
