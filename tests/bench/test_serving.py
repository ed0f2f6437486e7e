# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The serving benchmark without engines: its command line, what it makes of metrics and times, and its verdict."""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.samples import Sample

from kvdirect.harness.completions import Completion
from kvdirect.harness.model import SHAPES, SPECIAL_TOKENS, VOCABULARY
from kvdirect_bench.errors import BenchError, BenchUsageError
from kvdirect_bench.serving.cli import main
from kvdirect_bench.serving.contenders import find_nixl, make_service
from kvdirect_bench.serving.engine_metrics import QUEUED, Counted
from kvdirect_bench.serving.interleave import Result, Turn, count_wrong
from kvdirect_bench.serving.options import Options, add_arguments, read_options
from kvdirect_bench.serving.prompts import round_prompts, wake_up_prompt
from kvdirect_bench.serving.report import Report
from kvdirect_bench.serving.rows import make_rows
from kvdirect_bench.serving.targets import judge

if TYPE_CHECKING:
    from kvdirect_bench.serving.rows import Row

ROOT = Path(__file__).parents[2]
LANES = ("shm", "cma")
WIRE = "vllm:kvdirect_xfer_time_seconds"


def read(*words: str) -> Options:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser)
    return read_options(parser.parse_args(words), LANES)


# ---- the command line ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["--contenders", "pigeon"],
            "--contenders pigeon: expected some of aggregated, kvdirect, kvdirect-concurrent, kvdirect-streamed, nixl",
        ),
        (["--contenders", ""], "--contenders : expected some of"),
        (["--lanes", "pigeon"], "--lanes pigeon: expected some of shm, cma"),
        (["--rounds", "0"], "--rounds 0: expected 1 to"),
        (["--requests", "0"], "--requests 0"),
        (["--concurrency", "65"], "--concurrency 65: expected 1 to 64"),
        (["--prompt-tokens", "8000"], "--prompt-tokens 8000: expected 2 to 7000"),
        (["--output-tokens", "1"], "--output-tokens 1: expected 2"),
        (["--shared-prefix", "512"], "--shared-prefix 512: expected less than --prompt-tokens 512"),
        (["--start-timeout", "0"], "--start-timeout 0: expected seconds above 0"),
        (["--start-timeout", "nan"], "--start-timeout nan"),
        (["--bars", "--contenders", "aggregated,kvdirect"], "add nixl to --contenders"),
        (["--bars", "--model-size", "tiny"], "--bars is for models of at least 100000000 parameters"),
        (["--peer-python", "nixl=/nowhere"], "--peer-python nixl=/nowhere: expected LIBRARY=PATH"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(words: list[str], says: str) -> None:
    with pytest.raises(BenchUsageError) as refusal:
        read(*words)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_what_is_not_said_has_a_default() -> None:
    options = read()
    assert options.contenders == ("aggregated", "kvdirect", "nixl")
    assert options.shape.parameters >= 100_000_000
    assert options.waiting in {"spin", "sleep"}
    assert read("--waiting", "spin", "--lanes", "cma,shm,cma").lanes == ("cma", "shm")


def test_a_missing_nixl_is_one_line_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Python without NIXL stands for a machine without it: what is installed here does not matter."""
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\necho 'ModuleNotFoundError: no nixl' >&2\nexit 1\n")
    bare.chmod(0o755)
    assert main(["--contenders", "nixl", "--peer-python", f"nixl={bare}"]) == 1
    said = capsys.readouterr().err
    assert "make bench-serving-peers" in said
    assert len(said.splitlines()) == 1
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kvdirect_bench.pythons._HERE", tmp_path / "a/b")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(BenchError, match=r"\.venv-bench-serving-nixl.*make bench-serving-peers.*--peer-python nixl="):
        find_nixl({})


def test_the_program_runs_where_nothing_is_installed() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench/serving_bench.py"), "--rounds", "0"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("serving_bench.py: error: --rounds 0")


# ---- what is started -----------------------------------------------------------------------------------------------


def test_engines_are_told_which_lanes_and_how_to_wait(tmp_path: Path) -> None:
    service = make_service("kvdirect", tmp_path, tmp_path, read("--lanes", "cma", "--waiting", "sleep"))
    assert service.prefill is not None
    for process, role in ((service.prefill, "kv_producer"), (service.decode, "kv_consumer")):
        transfer = json.loads(process.command[-1])
        assert transfer["kv_role"] == role
        assert transfer["kv_connector_extra_config"] == {"lanes": ["cma"]}
        assert process.environment["KVDIRECT_BENCH_SLEEP"] == "1"
        assert process.environment["PYTHONPATH"].split(":")[0].endswith("engine_start")
    spinning = make_service("aggregated", tmp_path, tmp_path, read("--waiting", "spin"))
    assert spinning.prefill is None
    assert "PYTHONPATH" not in spinning.decode.environment
    assert len({process.url for process in (*service.processes, *spinning.processes)}) == 5


def test_a_shape_knows_how_many_weights_it_has() -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    shape = SHAPES["100m"]
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    assert sum(weights.numel() for weights in model.parameters()) == shape.parameters


# ---- prompts -------------------------------------------------------------------------------------------------------


def test_every_prompt_is_another_and_every_run_has_the_same() -> None:
    options = read("--prompt-tokens", "40", "--requests", "3")
    prompts = [prompt for number in range(-1, 4) for prompt in round_prompts(options, number)]
    prompts += [wake_up_prompt(options, number) for number in range(-1, 4)]
    assert len({tuple(prompt[:8]) for prompt in prompts}) == 5 * 3 + 5
    assert round_prompts(options, 2) == round_prompts(options, 2)
    assert all(len(SPECIAL_TOKENS) <= token < VOCABULARY for prompt in prompts for token in prompt)


def test_a_prefix_is_shared_if_that_is_asked_for() -> None:
    options = read("--prompt-tokens", "40", "--shared-prefix", "30", "--requests", "2")
    prompts = [prompt for number in range(2) for prompt in round_prompts(options, number)]
    assert len({tuple(prompt[:30]) for prompt in prompts}) == 1
    assert len({tuple(prompt[30:]) for prompt in prompts}) == 4
    assert {len(prompt) for prompt in prompts} == {40}


# ---- figures -------------------------------------------------------------------------------------------------------


def page(requests: int, queued: float, wires: dict[str, tuple[int, float]]) -> list[Sample]:
    """Metrics of an engine: counts and sums of its histograms, transfers by lane."""
    samples = [Sample(f"{QUEUED}_count", {"engine": "0"}, requests), Sample(f"{QUEUED}_sum", {"engine": "0"}, queued)]
    for lane, (count, seconds) in wires.items():
        labels = {"engine": "0", "lane": lane} if lane else {"engine": "0"}
        samples += [Sample(f"{WIRE}_count", labels, count), Sample(f"{WIRE}_sum", labels, seconds)]
        samples += [Sample(f"{WIRE}_bucket", {**labels, "le": "+Inf"}, count)]
    return samples


def test_what_was_counted_since_then() -> None:
    before = Counted.of(page(2, 0.5, {"shm": (2, 0.25), "cma": (1, 1.0)}), WIRE)
    after = Counted.of(page(5, 1.5, {"shm": (5, 1.0), "cma": (1, 1.0)}), WIRE)
    assert after - before == Counted(requests=3, queued=1.0, transfers=3, wire=0.75, lanes=(("shm", 3),))


def test_a_connector_need_not_know_lanes_and_an_engine_no_transfers() -> None:
    assert Counted.of(page(2, 0.5, {"": (2, 0.25)}), WIRE) == Counted(2, 0.5, 2, 0.25)
    assert Counted.of(page(2, 0.5, {}), "") == Counted(2, 0.5, 0, 0.0)


def turn(ttft: float, *, wire: float = 0.0, queued: float = 0.0, wrong: int = 0, lane: str = "") -> Turn:
    """Two requests of 11 tokens, a tenth of a second each after the first."""
    one = Completion(tuple(range(11)), 512, ttft, ttft + 1.0)
    lanes = ((lane, 2),) if lane else ()
    return Turn((one, one), Counted(2, queued, 2 if wire else 0, wire, lanes), wrong)


def rows(ours: float = 1.0, theirs: float = 1.25, wire: float = 0.01, their_wire: float = 0.02) -> list[Row]:
    """Three contenders in two rounds; `ours` and `theirs` are seconds to the first token."""
    return make_rows(
        [
            Result("aggregated", [turn(0.5), turn(0.5)]),
            Result("kvdirect", [turn(ours, wire=wire, queued=0.08, lane="shm")] * 2),
            Result("nixl", [turn(theirs, wire=their_wire, queued=0.04)] * 2),
        ]
    )


def test_figures_of_a_contender() -> None:
    aggregated, ours, _theirs = rows()
    assert (aggregated.wire_ms, aggregated.wire_share, aggregated.lane) == (None, None, "")
    assert (ours.requests, ours.rounds, ours.lane) == (4, 2, "shm")
    assert ours.ttft_ms == pytest.approx(1000)
    assert ours.tpot_ms == pytest.approx(100)
    assert ours.latency_ms == pytest.approx(2000)
    assert ours.wire_ms == pytest.approx(5)
    assert ours.wire_share == pytest.approx(0.02 / 8)
    assert ours.exposed_ms == pytest.approx(40)
    assert ours.exposed_share == pytest.approx(0.16 / 8)


def test_ratios_are_how_many_times_as_fast() -> None:
    _aggregated, ours, theirs = rows()
    assert ours.ratios["nixl"]["ttft"].median == pytest.approx(1.25)
    assert ours.ratios["nixl"]["wire"].median == pytest.approx(2)
    assert theirs.ratios["kvdirect"]["ttft"].median == pytest.approx(0.8)
    assert set(ours.ratios["aggregated"]) == {"ttft", "tpot", "latency"}


def test_one_other_token_makes_an_answer_wrong() -> None:
    right = [Completion((1, 2, 3), 8, 0.1, 0.2), Completion((4, 5, 6), 8, 0.1, 0.2)]
    slower = [Completion(one.tokens, 8, 0.5, 0.9) for one in right]
    assert count_wrong(slower, right) == 0
    assert count_wrong([slower[0], Completion((4, 5, 7), 8, 0.1, 0.2)], right) == 1
    assert count_wrong(slower[::-1], right) == 2


def test_wrong_answers_of_the_warm_up_count() -> None:
    (row,) = make_rows([Result("kvdirect", [turn(1.0, wrong=1), turn(1.0)], warmup_wrong=2)])
    assert row.wrong == 3


@pytest.mark.parametrize(
    ("changes", "met"),
    [
        ({}, [True, True, True]),
        ({"wire": 0.03}, [False, False, True]),  # 0.75 % of 2 s, and more than the other's
        ({"their_wire": 0.009}, [True, False, True]),
        ({"their_wire": 0.01}, [True, False, True]),  # the same time of longer requests
        ({"theirs": 0.99}, [True, True, False]),
        ({"theirs": 1.0}, [True, True, True]),
    ],
)
def test_bars(changes: dict[str, Any], met: list[bool]) -> None:
    assert [one.met for one in judge(rows(**changes))] == met


def test_the_best_of_nixl_is_shown_and_not_judged() -> None:
    results = [Result("kvdirect", [turn(1.0, wire=0.01, lane="shm")])]
    results += [Result(name, [turn(first, wire=0.02)]) for name, first in (("nixl", 2.0), ("nixl-best", 0.9))]
    outcomes = judge(make_rows(results))
    assert all(one.met for one in outcomes)
    assert len(outcomes) == 3


def test_formats() -> None:
    report = Report({"command": "c"}, rows())
    document = json.loads(report.render("json"))
    assert document["header"] == {"command": "c"}
    assert document["rows"][1]["ratios"]["nixl"]["ttft"]["median"] == pytest.approx(1.25)
    lines = [line for line in report.render("csv").splitlines() if not line.startswith("#")]
    table = list(csv.DictReader(io.StringIO("\n".join(lines))))
    assert [line["name"] for line in table] == ["aggregated", "kvdirect", "nixl"]
    assert table[0]["wire_ms"] == ""
    shown = report.render("table")
    assert "kvdirect    shm" in shown
    assert "1.25 [1.25-1.25]" in shown
