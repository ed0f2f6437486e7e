# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the simulated driver refuses, as a real one would, and what it says at its end."""

from __future__ import annotations

import ctypes
import json
import threading
from typing import TYPE_CHECKING

import simulated_cuda as sim
from driver_process import NEEDS_DRIVER, refused, run
from simulated_cuda import Cuda, CudaError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = NEEDS_DRIVER


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
    assert [line.pop(kind) for kind in ("launches", "looks", "uploads")] == [0, 0, 0]
    assert line == {**dict.fromkeys(sim.KINDS, 0), "allocations": 1, "streams": 1, "contexts": 1}
