# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the benchmark's GPU side shows without a GPU: its arguments, its refusals, and that it finds wrong bytes."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kvdirect_bench import gpu, gpu_figures, gpu_targets, interference
from kvdirect_bench.contenders import by_name
from kvdirect_bench.device_pattern import DevicePattern
from kvdirect_bench.errors import BenchError, BenchUsageError
from kvdirect_bench.memory import address_of
from kvdirect_bench.native import yardsticks
from kvdirect_bench.options import Options, add_arguments, read_options
from kvdirect_bench.pattern import Pattern
from kvdirect_bench.workload import Workload
from kvtransfer import KVTransferError

if TYPE_CHECKING:
    from pathlib import Path

LANES = ("cuda_ipc", "shm", "rdma", "message")
OURS = ("kvdirect-cuda_ipc", "kvdirect-cuda_ipc-bulk", "kvdirect-cuda_ipc-batch")
torch = pytest.importorskip("torch")
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")


def read(*words: str, lanes: tuple[str, ...] = LANES) -> Options:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser)
    return read_options(parser.parse_args(["--loopback", *words]), lanes)


# ---- the command line ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--device", "cuda", "--vs", "memcpy"], "expected some of device-copy, device-copy-events, ucx, nixl"),
        (["--vs", "device-copy"], "--vs device-copy: does not move memory of --device cpu"),
        (["--device", "cuda", "--lanes", "shm"], "--lanes shm: does not carry memory of --device cuda"),
        (["--lanes", "cuda_ipc"], "--lanes cuda_ipc: does not carry memory of --device cpu"),
        (["--device", "cuda", "--cuda-copy", "magic"], "--cuda-copy magic: expected some of kernel, bulk, batch"),
        (["--device", "cuda", "--cuda-sms", "-1"], "--cuda-sms -1: expected 0 to 1024"),
        (["--device", "cuda", "--pages", "2m"], "--pages 2m: is for host memory"),
        (["--blocks", "2", "--pull-bytes", "1g"], "--blocks and --pull-bytes exclude each other"),
        (["--pull-bytes", "4k"], "--pull-bytes 4096: less than a block"),
        (["--block-bytes", "4q"], "--block-bytes 4q: expected a number"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], says: str) -> None:
    with pytest.raises(BenchUsageError) as refusal:
        read(*words)
    assert says in str(refusal.value)


def test_every_lane_that_carries_gpu_memory_takes_part_by_every_way_to_copy() -> None:
    options = read("--device", "cuda", "--vs", "device-copy", "--quick")
    names = [one.name for one in options.contenders]
    assert names == [*OURS, "kvdirect-rdma", "device-copy"]
    assert [one.cuda_copy for one in options.contenders] == ["kernel", "bulk", "batch", "", ""]
    assert [one.name for one in read().contenders] == ["kvdirect-shm", "kvdirect-rdma", "kvdirect-message"]
    with pytest.raises(BenchUsageError, match="no lane that carries such memory"):
        read("--device", "cuda", lanes=("shm", "message"))


def test_a_contender_is_known_by_its_name() -> None:
    batch = by_name("kvdirect-cuda_ipc-batch")
    assert (batch.engine, batch.variant, batch.cuda_copy) == ("kvdirect-batch", "cuda_ipc", "batch")
    assert by_name("kvdirect-cuda_ipc-bulk").cuda_copy == "bulk"
    assert by_name("kvdirect-cuda_ipc").cuda_copy == ""
    assert by_name("kvdirect-cma-2t").copy_threads == 2


def test_a_sweep_pulls_as_many_bytes_at_every_size() -> None:
    options = read("--device", "cuda", "--block-bytes", "4k,16k,4m")
    assert {workload.pull_bytes for workload in options.workloads} == {1 << 30}
    assert [workload.unit_bytes for workload in options.workloads] == [4096, 16384, 4 << 20]
    assert all(workload.device == "cuda" and "on the GPU" in workload.label for workload in options.workloads)
    (workload,) = read("--pull-bytes", "1m", "--block-bytes", "64k").workloads
    assert (workload.blocks, workload.device) == (16, "cpu")


def test_settings_of_interference() -> None:
    settings = interference.read_settings("4,all", 132)
    assert [(one.name, one.sms, one.copy) for one in settings] == [
        ("4", 4, "kernel"),
        ("132 (all)", 132, "kernel"),
        ("default", 0, "kernel"),
        ("bulk", 0, "bulk"),
        ("batch", 0, "batch"),
    ]
    both = interference.read_settings("4,all", 132, bulk=True)
    assert [(one.name, one.sms, one.copy) for one in both[1:4]] == [
        ("4, bulk", 4, "bulk"),
        ("132 (all)", 132, "kernel"),
        ("132 (all), bulk", 132, "bulk"),
    ]
    with pytest.raises(BenchUsageError, match="--sms 133: this GPU has 132"):
        interference.read_settings("133", 132)


# ---- bytes: the same as on the host ---------------------------------------------------------------------------------


def pulled(workload: Workload) -> tuple[DevicePattern, Any, Any, Any]:
    """The reader's memory after a pull that went well, as a tensor."""
    host, pattern = Pattern(workload.unit_bytes), DevicePattern(workload.unit_bytes, "cpu")
    owned = torch.empty(workload.memory_bytes(workload.owner), dtype=torch.uint8)
    memory = torch.empty(workload.memory_bytes(workload.reader), dtype=torch.uint8)
    pattern.fill(owned)
    pattern.clear(memory)
    expected = np.zeros(owned.nbytes, dtype=np.uint8)
    host.fill(expected)
    assert np.array_equal(owned.numpy(), expected)
    host.clear(expected)
    assert np.array_equal(memory.numpy(), expected)
    source, target = workload.unit_tables(1)
    memory.numpy().reshape(-1, workload.unit_bytes)[target] = owned.numpy().reshape(-1, workload.unit_bytes)[source]
    return pattern, memory, source, target


@pytest.mark.parametrize(("blocks", "size"), [(16, 64), (3, 1 << 21), (5000, 8)])
def test_device_memory_holds_what_host_memory_would(blocks: int, size: int) -> None:
    pattern, memory, source, target = pulled(Workload("raw", 1, 1, blocks, 1, 1, size, 1.0, "default"))
    assert pattern.wrong_bytes(memory, source, target) == 0


@pytest.mark.parametrize("bit", range(8))
def test_any_flipped_bit_is_found(bit: int) -> None:
    pattern, memory, source, target = pulled(Workload("raw", 1, 1, 16, 1, 1, 64, 1.0, "default"))
    for unit in range(memory.nbytes // 64):  # those that were asked for, and those that were not
        memory[unit * 64 + 7 * unit % 64] ^= 1 << bit
        assert pattern.wrong_bytes(memory, source, target) == 1
        memory[unit * 64 + 7 * unit % 64] ^= 1 << bit


# ---- refusals ------------------------------------------------------------------------------------------------------


@NO_GPU
def test_ucx_is_told_that_memory_is_on_a_gpu() -> None:
    """Else it would read the addresses as the host's. Where it knows no GPU it refuses."""
    memory = np.zeros(4096, dtype=np.uint8)
    with pytest.raises(KVTransferError, match="this UCX has no CUDA"):
        yardsticks().UcxSource(address_of(memory), memory.nbytes, cuda=True)


@NO_GPU
def test_without_a_gpu_it_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BenchError, match=r"not built for CUDA|finds no GPU"):
        gpu.require_torch()
    assert gpu_targets.main([]) == 2
    assert interference.main([]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert all("--device cuda" in line for line in said)


def test_without_pytorch_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BenchError, match=r"needs PyTorch, which .* cannot import"):
        gpu.require_torch()


@pytest.mark.parametrize("text", ["", "{}", '{"header": {}, "rows": []}', '{"header": {}, "rows": [{"engine": 1}]}'])
def test_figures_of_something_else_are_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    file.write_text(text)
    assert gpu_figures.main([str(file)]) == 2
    assert f"{file}: expected what gpu_targets or interference writes" in capsys.readouterr().err
    assert gpu_figures.main([str(tmp_path / "nothing.json")]) == 2
