# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The program that simulates clusters: its tables, in their smallest form, its errors and its calibration."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kvdirect_bench.cluster import calibrate, cli
from kvdirect_bench.cluster.calibrate import Machine, Measured, MeasuredTimes
from kvdirect_bench.cluster.oracle import TABLE, load
from kvdirect_bench.errors import BenchError

if TYPE_CHECKING:
    from pathlib import Path

MACHINE = Machine(MeasuredTimes(step=0.012, token=0.0008, pair=2e-8, read=3e-7), setup=0.003, wire=4e-6, hop=0.004)
LENGTHS = (128, 512, 1024)


def test_the_smallest_comparison_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--tiny", "--no-plots", "--processes", "1", "--parts", "comparison"]) == 0
    told = capsys.readouterr().out
    assert "2048 tokens in, 32 out, 4 instances" in told
    assert all(name in told for name in ("1P3D", "2P2D", "3P1D", "-55%", "whole prompts"))


def test_it_needs_neither_the_library_nor_a_server() -> None:
    """Its environment has neither: `make simulate` builds nothing."""
    told = "import sys, kvdirect_bench.cluster.cli as _; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "simpy" in loaded
    assert loaded.isdisjoint({"kvtransfer", "vllm", "torch", "httpx", "starlette", "uvicorn", "anyio"})


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--parts", "comparison,all"), "--parts all: expected some of comparison, two, ways, elastic"),
        (("--processes", "-1"), "--processes -1: expected at least 0"),
        (("--times", "/nowhere.json"), "/nowhere.json: cannot be read (No such file or directory)"),
        (("--overhead-ms", "-1"), "overhead -0.001: expected seconds from 0"),
        (("--calibrate", "/nowhere.json"), "--calibrate /nowhere.json: cannot be read"),
    ],
)
def test_what_it_cannot_do_is_told_in_a_line(
    words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["--no-plots", *words]) > 0
    assert told in capsys.readouterr().err


def broken(**parts: object) -> dict[str, object]:
    return {**json.loads(TABLE.read_text()), **parts}


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({}, "has no 'model'"),
        ([], "not a table of step times"),
        (broken(dense={"tokens": [1, 2], "milliseconds": [1.0]}), "1 times for 2 places"),
        (broken(dense={"tokens": [2, 1], "milliseconds": [1.0, 1.0]}), "tokens do not rise"),
        (broken(dense={"tokens": [1, 2], "milliseconds": [1.0, -1.0]}), "a time of -1.0 ms"),
        (broken(decode={"sequences": [1, 2], "contexts": [1, 2], "milliseconds": [[1, 1]]}), "1 lines of times for 2"),
    ],
)
def test_a_table_that_is_not_one_is_refused(table: object, told: str, tmp_path: Path) -> None:
    file = tmp_path / "times.json"
    file.write_text(json.dumps(table))
    with pytest.raises(BenchError, match=told):
        load(file)


def run_of(file: Path, prompt: int, outputs: int = 24, concurrency: int = 1, factor: float = 1.0) -> Path:
    """What the serving benchmark would write, were its machine as MACHINE is, and slower by a factor."""
    rows = []
    for name in ("aggregated", "kvdirect", "nixl"):
        wire = MACHINE.setup + MACHINE.wire * prompt if name != "aggregated" else 0.0
        row = Measured("kvdirect" if name == "nixl" else name, prompt, outputs, concurrency, 0.0, 0.0, wire)
        ttft, tpot = calibrate.told(MACHINE, row)
        times = {"ttft_ms": ttft * 1e3 * factor, "tpot_ms": tpot * 1e3 * factor, "wire_ms": wire * 1e3 or None}
        rows.append({"name": name, **times})
    header = {"prompt_tokens": prompt, "output_tokens": outputs, "concurrency": concurrency}
    file.write_text(json.dumps({"header": header, "rows": rows}))
    return file


def test_calibration_finds_the_machine_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [run_of(tmp_path / f"{length}.json", length) for length in LENGTHS]
    files.append(run_of(tmp_path / "two.json", 512, concurrency=2))
    assert calibrate.judge_files(files) == 0
    told = capsys.readouterr().out
    assert told.count(" given") == 3
    assert "kvdirect, 512/24, 2 at once, TTFT" in told
    assert "MISSED" not in told
    rows = [row for file in files for row in calibrate.read(file)]
    found = calibrate.learn(*(row for row in rows if row.prompt in (128, 1024) and row.name == "aggregated"),
                            *(row for row in rows if row.prompt in (128, 1024) and row.name == "kvdirect"))  # fmt: skip
    assert found.hop == pytest.approx(MACHINE.hop, rel=0.05)
    assert found.wire == pytest.approx(MACHINE.wire, rel=1e-6)
    assert found.times.token == pytest.approx(MACHINE.times.token, rel=0.01)


@pytest.mark.parametrize("sequence", [0.002, -0.0005])
def test_what_a_further_sequence_costs_is_found_again(sequence: float) -> None:
    machine = replace(MACHINE, times=replace(MACHINE.times, sequence=sequence))

    def of(name: str, prompt: int, outputs: int = 24, concurrency: int = 1) -> Measured:
        wire = machine.setup + machine.wire * prompt if name == calibrate.SPLIT else 0.0
        row = Measured(name, prompt, outputs, concurrency, 0.0, 0.0, wire)
        ttft, tpot = calibrate.told(machine, row)
        return replace(row, ttft=ttft, tpot=tpot)

    rows = [of(name, length) for name in (calibrate.AGGREGATED, calibrate.SPLIT) for length in (128, 1024)]
    found = calibrate.learn(*rows, many=of(calibrate.AGGREGATED, 128, 400, 8))
    assert found.times.token == pytest.approx(MACHINE.times.token, rel=0.01)
    assert found.times.token + found.times.sequence == pytest.approx(MACHINE.times.token + sequence, rel=0.15)


def test_calibration_judges_what_it_was_not_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [run_of(tmp_path / f"{length}.json", length, factor=1.3 if length == 512 else 1.0) for length in LENGTHS]
    assert calibrate.judge_files(files) == 1
    assert capsys.readouterr().out.count("MISSED") == 4


def test_calibration_says_which_runs_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--calibrate", str(run_of(tmp_path / "one.json", 128))]) == 2
    assert "1 lengths of prompts by aggregated" in capsys.readouterr().err
    (tmp_path / "other.json").write_text('{"rows": []}')
    assert cli.main(["--calibrate", str(tmp_path / "other.json")]) == 2
    assert "expected what `serving_bench.py --format json` writes" in capsys.readouterr().err
