# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The router's benchmark from end to end in its smallest form; figures decide nothing, answers do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_programs import bench

pytest.importorskip("uvicorn", reason="the router needs the extra `proxy`")
ROOT = Path(__file__).resolve().parents[2]
OTHER = ROOT / ".venv-bench-router" / "bin" / "vllm-router"


def measure(file: Path, *words: str) -> dict[str, int]:
    """How many requests each router answered; none was answered wrongly."""
    program = (str(ROOT / "bench" / "router_bench.py"),)
    done = bench("--tiny", "--rounds", "1", "--json", str(file), *words, program=program)
    assert "\n0 answers were wrong" in done.stdout
    turns = json.loads(file.read_text())["turns"]
    assert all(turn["measured"]["wrong"] == 0 and turn["measured"]["first_byte"] for turn in turns)
    names = {turn["router"] for turn in turns}
    return {name: sum(turn["measured"]["requests"] for turn in turns if turn["router"] == name) for name in names}


def test_every_answer_is_right(tmp_path: Path) -> None:
    assert measure(tmp_path / "rows.json", "--workers", "1", "--other", "none") == {"kvdirect": 15}


def test_every_answer_is_right_beside_vllm_router(tmp_path: Path) -> None:
    if not OTHER.exists():
        pytest.skip("vllm-router is not installed; `make bench-router` does that")
    assert measure(tmp_path / "rows.json", "--workers", "1") == {"kvdirect": 15, "vllm-router": 15}
