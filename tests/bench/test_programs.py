# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The benchmark as a user runs it: real processes, small pulls. Figures decide nothing here; bytes do."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kvtransfer as kt
from kvdirect_bench import waiting

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench" / "transfer_bench.py"
DEADLINE = 120.0
SMALL = ("--quick", "--rounds", "2", "--pages", "default", "--block-bytes", "4096", "--blocks", "64")
WANTED = {
    *("engine", "lane", "block_bytes", "blocks", "runs", "bytes"),
    *("gbps", "p50_us", "p99_us", "post_us", "wrong", "ratio_to_memcpy"),
}


def environment() -> dict[str, str]:
    """The package under test first, and what is in this tree."""
    package = Path(kt.__file__).resolve().parent.parent
    paths = [str(package), str(ROOT / "vllm_plugin"), str(ROOT / "bench"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def bench(*words: str, program: tuple[str, ...] = (str(BENCH),), status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *program, *words],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def rows_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    told: dict[str, Any] = json.loads(done.stdout)
    assert {"ucx_file", "cpu", "congestion_control", "versions", "command"} <= set(told["header"])
    rows: list[dict[str, Any]] = told["rows"]
    assert all(set(row) >= WANTED for row in rows)
    return rows


def test_every_byte_is_right_beside_everything_that_needs_no_library() -> None:
    done = bench("--loopback", "--vs", "memcpy,memcpy2,socket,socket2,ucx", "--format", "json", *SMALL)
    rows = {row["name"]: row for row in rows_of(done)}
    assert {"kvdirect-cma", "kvdirect-message", "memcpy", "memcpy2", "socket", "socket2", "ucx"} <= set(rows)
    for row in rows.values():
        assert row["wrong"] == 0
        assert row["bytes"] == 64 * 4096
        assert row["ratio_to_memcpy"] > 0
        assert row["p50_us"] > 0
    assert rows["kvdirect-cma"]["post_us"] > 0
    assert "round 2 of 2" in done.stderr


def lacks(python: str, module: str, **more: str) -> str:
    """The library of the system without which that Python cannot import the module; "" if it is all there."""
    done = subprocess.run(
        [python, "-c", f"import {module}"], env={**os.environ, **more}, capture_output=True, text=True, check=False
    )
    found = re.search(r"(lib\S+\.so\S*): cannot open shared object file", done.stderr)
    return found[1] if found else ""


@pytest.mark.parametrize(
    ("name", "library", "module"),
    [("nixl-best", "nixl", "nixl._api"), ("mooncake", "mooncake", "mooncake.engine"), ("ucxx", "ucxx", "ucxx")],
)
def test_every_byte_is_right_beside_a_library(name: str, library: str, module: str) -> None:
    python = ROOT / f".venv-bench-{library}/bin/python"
    if not python.exists():
        pytest.skip(f"{library} is not there; `make bench-peers` installs it")
    if missing := lacks(str(python), module):
        pytest.skip(f"{library} needs {missing}, which this system has not (Mooncake's is in Debian's libibverbs1)")
    done = bench("--loopback", "--lanes", "cma", "--vs", name, "--format", "json", *SMALL)
    rows = {row["name"]: row for row in rows_of(done)}
    assert (rows[name]["wrong"], rows[name]["bytes"]) == (0, 64 * 4096)
    refused = bench("--loopback", "--lanes", "cma", "--vs", name, "--corrupt", "--format", "json", *SMALL, status=1)
    assert f"3 of {name}" in refused.stderr


def test_what_a_library_lacks_of_the_system_is_named(tmp_path: Path) -> None:
    """As Mooncake does without libibverbs1; what else may be wrong with it is no reason to skip."""
    (tmp_path / "lacking.py").write_text("import ctypes\nctypes.CDLL('libnot-on-this-system.so.1')\n")
    (tmp_path / "broken.py").write_text("import not_on_this_system\n")
    assert lacks(sys.executable, "lacking", PYTHONPATH=str(tmp_path)) == "libnot-on-this-system.so.1"
    assert lacks(sys.executable, "broken", PYTHONPATH=str(tmp_path)) == ""


@pytest.mark.parametrize("lane", ["cma", "message"])
def test_a_wrong_byte_ends_with_an_error(lane: str) -> None:
    done = bench("--loopback", "--lanes", lane, "--corrupt", "--format", "json", *SMALL, status=1)
    (row,) = rows_of(done)
    assert row["wrong"] == 3  # a byte in each round, warm-up included
    assert f"wrong bytes: 3 of kvdirect-{lane}" in done.stderr


@pytest.mark.parametrize(("tp", "layout"), [("1", "NHD"), ("1:2", "NHD"), ("1:2", "HND"), ("2", "NHD:HND")])
def test_a_kv_cache(tp: str, layout: str) -> None:
    shape = ("--layers", "2", "--kv-heads", "4", "--head-size", "16", "--tokens", "64")
    done = bench(
        *("--loopback", "--lanes", "cma,message", "--vs", "socket", "--quick", "--rounds", "1", "--pages", "default"),
        *("--tp", tp, "--layout", layout, "--format", "csv", *shape),
    )
    lines = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(io.StringIO("\n".join(lines))))
    assert {row["lane"] for row in rows} == {"cma", "message", "tcp"}
    assert {row["wrong"] for row in rows} == {"0"}


def test_one_run_is_one_run() -> None:
    done = bench("--loopback", "--lanes", "cma", "--fragmentation", "0,1", "--format", "json", *SMALL)
    assert [row["runs"] for row in rows_of(done)] == [1, pytest.approx(64, abs=4)]


def test_a_picture(tmp_path: Path) -> None:
    file = tmp_path / "out.html"
    done = bench("--loopback", "--lanes", "cma", "--plot", str(file), *SMALL)
    assert "<svg" in file.read_text()
    assert "x memcpy" in done.stdout


def test_what_a_bare_python_lacks_is_said_in_one_line() -> None:
    """-I -S: without installed packages and without PYTHONPATH."""
    refused = bench("--loopback", program=("-I", "-S", str(BENCH)), status=1)
    assert "has no numpy; `pip install .`" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_as_a_subcommand() -> None:
    done = bench("bench", "--loopback", "--lanes", "cma", *SMALL, program=("-m", "kvdirect"))
    assert "kvdirect" in done.stdout
    refused = bench("bench", "--loopback", "--vs", "pigeon", program=("-m", "kvdirect"), status=2)
    assert refused.stderr.startswith("kvdirect bench: error: --vs pigeon")
    assert refused.stderr.count("\n") == 1


@pytest.mark.skipif(Path("/sys/class/infiniband").exists(), reason="lane rdma may work here")
def test_a_lane_that_does_not_work_is_an_error_if_it_was_named() -> None:
    refused = bench("--loopback", "--lanes", "rdma", *SMALL, status=1)
    assert "kvdirect-rdma" in refused.stderr.splitlines()[-1]
    assert not refused.stdout


def test_two_machines() -> None:
    """Both are this one; what is between them is what would be between two."""
    server = subprocess.Popen(
        [sys.executable, str(BENCH), "serve"], cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stderr is not None
        address = server.stderr.readline().split()[-1]
        for _ in range(2):  # one reader after the other
            done = bench("run", address, "--lanes", "message", "--vs", "memcpy,socket", "--format", "json", *SMALL)
            rows = {row["name"]: row for row in rows_of(done)}
            assert {"kvdirect-message", "socket", "memcpy"} <= set(rows)
            assert {row["wrong"] for row in rows.values()} == {0}
    finally:
        server.send_signal(signal.SIGTERM)
        _, told = server.communicate(timeout=DEADLINE)
    assert server.returncode == 130, told
    assert "is done" in told


def test_nobody_there() -> None:
    refused = bench("run", "127.0.0.1:1", *SMALL, status=1)
    assert "start `serve` there first" in refused.stderr
    assert refused.stderr.count("\n") == 1


# ---- what waiting costs: figures decide nothing, and what does not work is a row ------------------------------------


@pytest.mark.parametrize("limit", waiting.LIMITS, ids=lambda limit: limit.work)
def test_waiting_is_measured(limit: waiting.Limit, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, few in (("_RAISES", 2), ("_READY", 2), ("_BESIDE", 10), ("_MANY", 10), ("_CPU_SECONDS", 0.1)):
        monkeypatch.setattr(waiting, name, few)
    for lane in limit.lanes:
        outcome = waiting.judge_limit(limit, lane, print)
        assert outcome.work == f"{limit.work}, {lane}"
        assert re.fullmatch(r"[0-9.]+ (ms, worst [0-9.]+|%)", outcome.measured)


def test_a_pull_that_waits_for_ever_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_GIVE_UP", 0.1)
    monkeypatch.setattr(waiting, "_PAUSES", (0.3,))
    outcome = waiting.judge_limit(waiting.LIMITS[0], "cma", print)
    assert not outcome.met
    assert outcome.measured.startswith("PullTimeout: ")


def test_a_lane_that_does_not_work_is_a_row() -> None:
    outcome = waiting.judge_limit(waiting.LIMITS[0], "pigeon", print)
    assert not outcome.met
    assert "pigeon" in outcome.measured
