# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The benchmark of rows from end to end in its smallest form; figures decide nothing, bytes do."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from test_programs import bench

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "bench" / "rows_bench.py"
HERE = {"numpy take", "numpy take, checked", "kvdirect shm", "kvdirect cma", "kvdirect message"}


def test_every_row_is_right(tmp_path: Path) -> None:
    file = tmp_path / "turns.json"
    done = bench("rows", "--tiny", "--rounds", "3", "--json", str(file), program=("-m", "kvdirect", "bench"))
    assert "\n0 bytes were wrong" in done.stdout
    turns = json.loads(file.read_text())["turns"]
    packages = {"torch rpc": "torch", "grpc": "grpc", "ray": "ray", "dgl": "dgl"}
    names = HERE | {name for name, package in packages.items() if importlib.util.find_spec(package)}
    assert {turn["contender"] for turn in turns} == names
    assert len(turns) == 3 * len(names)
    assert all(turn["wrong"] == 0 and turn["seconds"] > 0 for turn in turns)


def test_the_program_of_a_checkout_says_what_it_takes() -> None:
    told = [
        bench("--help", program=(str(PROGRAM),)).stdout,
        bench("rows", "--help", program=("-m", "kvdirect", "bench")).stdout,
    ]
    assert "usage: rows_bench.py" in told[0]
    assert "usage: kvdirect bench rows" in told[1]
    assert all("--tiny" in one for one in told)
