# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""bench/serving_bench.py with real engines: what it prints, how it exits, and that it leaves nothing behind."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from marked import processes_with, start

pytestmark = pytest.mark.vllm

BENCH = str(Path(__file__).parents[2] / "bench/serving_bench.py")
SMALL = ("--model-size", "tiny", "--contenders", "aggregated,kvdirect", "--rounds", "1", "--warmup", "0")


def test_one_round_of_a_small_model(mark: str, tmp_path: Path) -> None:
    words = (*SMALL, "--requests", "3", "--concurrency", "2", "--prompt-tokens", "200", "--output-tokens", "6")
    bench = start(mark, BENCH, *words, "--format", "json", "--keep", str(tmp_path / "kept"))
    output, _ = bench.communicate(timeout=600)
    assert bench.returncode == 0, output
    # Progress comes by the same pipe, before the document.
    document = json.loads(output[output.index("\n{\n") :])
    assert document["header"]["prompt_tokens"] == 200
    aggregated, ours = document["rows"]
    assert (aggregated["name"], aggregated["requests"], aggregated["wire_share"]) == ("aggregated", 3, None)
    assert (ours["name"], ours["requests"], ours["wrong"]) == ("kvdirect", 3, 0)
    assert ours["lane"] in {"shm", "cma"}
    assert 0 < ours["wire_share"] < ours["exposed_share"] < 1
    assert 0 < ours["ttft_ms"] < ours["latency_ms"]
    assert ours["ratios"]["aggregated"]["ttft"]["median"] > 0
    assert (tmp_path / "kept/kvdirect-decode.log").exists()
    assert processes_with(mark) == []


def test_ctrl_c_stops_everything_it_started(mark: str) -> None:
    bench = start(mark, BENCH, *SMALL)
    try:
        deadline = time.monotonic() + 60
        while len(processes_with(mark)) < 6:  # itself, three engines and two routers
            assert time.monotonic() < deadline, "the benchmark started nothing"
            time.sleep(0.2)
        bench.send_signal(signal.SIGINT)
        output, _ = bench.communicate(timeout=60)
    finally:
        bench.kill()
    assert bench.returncode == 130, output
    assert processes_with(mark) == []
