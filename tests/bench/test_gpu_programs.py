# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The programs of the benchmark's GPU side from end to end, on the simulated driver, and the script that runs them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kvdirect_bench import gpu_figures
from kvtransfer import CUDA_BUILD

ROOT = Path(__file__).resolve().parents[2]
CHECK = ROOT / "bench" / "gpu_check.sh"
pytest.importorskip("torch")
SIMULATED = pytest.mark.skipif(
    not (CUDA_BUILD and Path(os.environ.get("KVDIRECT_SIM_CUDA", "")).is_file()),
    reason="needs a build with CUDA parts (nvcc), and the simulated driver that KVDIRECT_SIM_CUDA names",
)


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
