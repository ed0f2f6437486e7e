# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the benchmark's GPU side shows without a GPU: its arguments, its refusals, and that it finds wrong bytes."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

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
from kvtransfer import CUDA_BUILD, KVTransferError

ROOT = Path(__file__).resolve().parents[2]
CHECK = ROOT / "bench" / "gpu_check.sh"
LANES = ("cuda_ipc", "shm", "rdma", "message")
OURS = ("kvdirect-cuda_ipc", "kvdirect-cuda_ipc-bulk", "kvdirect-cuda_ipc-batch")
torch = pytest.importorskip("torch")
SIMULATED = pytest.mark.skipif(
    not (CUDA_BUILD and Path(os.environ.get("KVDIRECT_SIM_CUDA", "")).is_file()),
    reason="needs a build with CUDA parts (nvcc), and the simulated driver that KVDIRECT_SIM_CUDA names",
)
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


# ---- whole programs, on the simulated driver ------------------------------------------------------------------------


def run(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A program of the benchmark, which finds a simulated GPU."""
    simulated = ROOT / "tests" / "bench" / "simulated_gpu"
    return subprocess.run(
        [sys.executable, "-m", f"kvdirect_bench.{module}", *words],
        cwd="/",
        env={**os.environ, "PYTHONPATH": f"{simulated}{os.pathsep}{ROOT / 'bench'}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    """What `gpu_targets` prints, and the rows that it writes."""
    rows = tmp_path_factory.mktemp("figures") / "rows.json"
    ran = run(
        *("gpu_targets", "--rounds", "1", "--pull-bytes", "4m", "--sizes", "64k,4k"),
        *("--per-block", "ucx", "--json", str(rows)),
    )
    return ran, json.loads(rows.read_text())["rows"]


@SIMULATED
def test_every_contest_of_the_gpu_targets_ends_with_figures(
    judged: tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]],
) -> None:
    ran, rows = judged
    assert ran.returncode in {0, 1}, ran.stderr  # a simulated GPU reaches no target
    assert "left out" not in ran.stderr
    kernel, copies = ("kvdirect", "kvdirect-bulk", "kvdirect-batch"), ("device-copy", "device-copy-events")
    assert [(row["block_bytes"], row["engine"]) for row in rows] == [
        *((64 << 10, name) for name in (*kernel, *copies)),
        *((4 << 10, name) for name in (*kernel, *copies)),
        *((16 << 10, name) for name in ("kvdirect", "ucx")),
    ]
    assert [row["wrong"] for row in rows] == [0] * len(rows)
    assert all(row["gbps"] > 0 for row in rows)


@SIMULATED
def test_a_run_that_is_cut_off_leaves_what_it_has(
    judged: tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]],
) -> None:
    said = judged[0].stderr
    verdicts = [said.index(f"cuda_ipc, {size} KiB runs") for size in (64, 4, 16)]
    assert verdicts == sorted(verdicts)
    assert verdicts[0] < said.index("1024 x 4096 bytes: starting")


@SIMULATED
def test_interference_ends_with_a_row_for_each_setting(tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    ran = run(
        *("interference", "--sms", "2,all", "--size", "64", "--pull-bytes", "1m", "--rounds", "1"),
        *("--seconds", "0.05", "--json", str(rows)),
    )
    assert ran.returncode == 0, ran.stderr
    lines = json.loads(rows.read_text())["rows"]
    assert [line["sms"] for line in lines] == ["2", "132 (all)", "default", "bulk", "batch"]
    assert all(line["wrong"] == 0 and line["gbps_alone"] > 0 for line in lines)


@SIMULATED
def test_the_gpu_check_goes_through_and_leaves_its_figures(tmp_path: Path) -> None:
    """With programs that stand in for NVIDIA's: nvidia-smi knows one GPU, and there is no ncu."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\ncase $1 in *=name) echo a simulated GPU ;; *=memory.total) echo 81559 ;; esac\n")
    smi.chmod(0o755)
    (tmp_path / "libcuda.so.1").symlink_to(os.environ["KVDIRECT_SIM_CUDA"])
    figures = tmp_path / "figures"
    ran = check(
        *("--only", "bars,interference,profile", "--rehearse", "--per-block", "ucx"),
        PATH=f"{tmp_path}:/usr/bin:/bin",
        LD_LIBRARY_PATH=str(tmp_path),
        PYTHONPATH=str(ROOT / "tests" / "bench" / "simulated_gpu"),
        CUDA_HOME=str(tmp_path),
        OUT=str(figures),
    )
    assert ran.returncode == 1, ran.stderr  # a simulated GPU reaches no target
    table = (figures / "table.txt").read_text()
    assert re.search(r"^bars +FAILED .* 0 of 2 bars met$", table, re.MULTILINE), ran.stdout
    assert re.search(r"^interference +ok .* product [0-9.]+ times as long$", table, re.MULTILINE), ran.stdout
    assert re.search(r"^profile +LEFT OUT .* missing: ncu: not on PATH", table, re.MULTILINE)
    assert "held: 0 0\n" in (figures / "log.txt").read_text()
    files = sorted(path.name for path in figures.iterdir())
    assert files == ["bars.json", "interference.json", "log.txt", "table.txt"]
    document = tmp_path / "document.md"
    document.write_text(f"before\n{gpu_figures.BEGIN}\nold\n{gpu_figures.END}\nafter\n")
    told = [str(figures / name) for name in files if name != "log.txt"]
    assert gpu_figures.main([*told, "--into", str(document)]) == 0
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "\nold\n" not in text
    assert all(one in text for one in ("| kvdirect | 16384 |", "| default |", "KVDirect on a GPU"))


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


def check(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(CHECK), *words],
        cwd="/",
        env={**os.environ, "PYTHON": sys.executable, **more},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="nvidia-smi is here")
def test_the_gpu_check_names_what_is_missing(tmp_path: Path) -> None:
    refused = check(OUT=str(tmp_path / "out"), KVDIRECT_UCX_DIR=str(tmp_path))
    assert refused.returncode == 2
    assert "missing: a GPU: nvidia-smi lists none" in refused.stderr
    assert f"missing: UCX: KVDIRECT_UCX_DIR={tmp_path} has no ucx-config.cmake" in refused.stderr
    assert not refused.stdout
    assert not (tmp_path / "out").exists()


def test_the_gpu_check_needs_no_gpu_to_build(tmp_path: Path) -> None:
    refused = check("--build-only", KVDIRECT_UCX_DIR=str(tmp_path))
    assert refused.returncode == 2
    assert "UCX" in refused.stderr
    assert "GPU" not in refused.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--plan", "4"], "--plan 4: expected 1, 2 or 3"),
        (["--nope"], "--nope: unknown"),
        (["--only", "lunch"], "--only lunch: expected some of build"),
    ],
)
def test_the_gpu_check_refuses_wrong_words(words: list[str], says: str) -> None:
    refused = check(*words)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert says in refused.stderr


@pytest.mark.parametrize("text", ["", "{}", '{"header": {}, "rows": []}', '{"header": {}, "rows": [{"engine": 1}]}'])
def test_figures_of_something_else_are_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    file.write_text(text)
    assert gpu_figures.main([str(file)]) == 2
    assert f"{file}: expected what gpu_targets or interference writes" in capsys.readouterr().err
    assert gpu_figures.main([str(tmp_path / "nothing.json")]) == 2
