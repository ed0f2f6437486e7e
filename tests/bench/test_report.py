# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the benchmark prints: its statistics, its formats, its pictures, and its verdict on bars."""

from __future__ import annotations

import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from kvdirect_bench import gpu_targets, plot, targets
from kvdirect_bench.contenders import by_name
from kvdirect_bench.errors import BenchError
from kvdirect_bench.interleave import Result, Turn, pulls_per_turn
from kvdirect_bench.plot import check_plot, render_html
from kvdirect_bench.report import Report
from kvdirect_bench.rows import Row, make_rows
from kvdirect_bench.spread import Ratio, median, percentile
from kvdirect_bench.workload import Workload


def raw(blocks: int, size: int) -> Workload:
    return Workload("raw", 1, 1, blocks, 1, 1, size, 1.0, "default")


def row(name: str = "kvdirect-cma", **changes: Any) -> Row:  # noqa: ANN401
    values: dict[str, Any] = {
        "workload": "2 blocks of 4096 bytes",
        "name": name,
        "engine": "kvdirect" if name.startswith("kvdirect") else name,
        "lane": "cma",
        "pages": "2m",
        "fragmentation": 1.0,
        "block_bytes": 4096,
        "blocks": 2,
        "runs": 2,
        "bytes": 8192,
        "gbps": 8.192,
        "p50_us": 1.0,
        "p99_us": 2.0,
        "post_us": 0.5,
        "wrong": 0,
        "rounds": 9,
        "pulls": 9,
        "ratio_to_memcpy": 0.5,
        "ratios": {"memcpy": Ratio(0.5, 0.4, 0.6)},
    }
    return Row(**{**values, **changes})


# ---- statistics ----------------------------------------------------------------------------------------------------


def test_percentiles() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([1.0, 2.0]) == 1.5
    assert percentile([5.0], 0.99) == 5.0
    assert percentile(list(map(float, range(101))), 0.99) == pytest.approx(99.0)


def test_a_ratio_is_of_rounds_not_of_medians() -> None:
    ratio = Ratio.of([1.0, 2.0, 4.0], [2.0, 4.0, 8.0])
    assert (ratio.median, ratio.low, ratio.high) == (2.0, 2.0, 2.0)
    assert str(Ratio.of([1.0, 1.0], [1.0, 3.0])) == "2.00 [1.10-2.90]"


def test_rows_say_what_turns_took() -> None:
    workload = raw(blocks=4, size=1000 * 8)

    def result(name: str, seconds: float, wrong: int = 0) -> Result:
        turns = [Turn((seconds, seconds), (seconds / 10,) * 2, wrong, None) for _ in range(3)]
        return Result(by_name(name), {"lane": "x", "pages": "2m"}, turns, warmup_wrong=wrong)

    ours, memcpy = make_rows(workload, [result("kvdirect-cma", 2e-3, wrong=5), result("memcpy", 1e-3)])
    assert ours.gbps == pytest.approx(32000 / 2e-3 / 1e9)
    assert ours.p50_us == pytest.approx(2000)
    assert ours.post_us == pytest.approx(200)
    assert (ours.wrong, memcpy.wrong) == (20, 0)
    assert (ours.ratio_to_memcpy, memcpy.ratio_to_memcpy) == (pytest.approx(0.5), 1.0)
    assert memcpy.ratios["kvdirect-cma"].median == pytest.approx(2.0)
    assert ours.runs == 4
    assert make_rows(workload, [result("kvdirect-cma", 1.0)])[0].ratio_to_memcpy is None


def test_a_row_of_a_gpu_is_compared_with_its_own_copy() -> None:
    workload = Workload("raw", 1, 1, 4, 1, 1, 8000, 1.0, "default", device="cuda")
    turns = {"kvdirect-cuda_ipc": 2e-3, "kvdirect-cuda_ipc-batch": 4e-3, "device-copy": 1e-3}
    results = [
        Result(by_name(name), {"lane": "x", "pages": "gpu"}, [Turn((took,), (0.0,), 0, None)] * 3)
        for name, took in turns.items()
    ]
    rows = make_rows(workload, results)
    assert [one.ratio_to_device_copy for one in rows] == [pytest.approx(0.5), pytest.approx(0.25), 1.0]
    assert [one.ratio_to_memcpy for one in rows] == [None] * 3
    assert [one.engine for one in rows] == ["kvdirect", "kvdirect-batch", "device-copy"]
    found = Report({}, rows)
    assert "x device copy" in found.render("table")
    assert "x memcpy" not in found.render("table")
    told = list(csv.DictReader(io.StringIO(found.render("csv"))))
    assert [float(one["ratio_to_device_copy"]) for one in told] == [pytest.approx(0.5), pytest.approx(0.25), 1.0]
    assert {one["ratio_to_memcpy"] for one in told} == {""}
    assert json.loads(found.render("json"))["rows"][1]["ratio_to_device_copy"] == pytest.approx(0.25)


def test_small_pulls_are_repeated() -> None:
    assert pulls_per_turn(raw(blocks=1, size=4096)) == 200
    assert pulls_per_turn(raw(blocks=8192, size=32768)) == 1


# ---- what is printed -----------------------------------------------------------------------------------------------

WANTED = {
    *("engine", "lane", "block_bytes", "blocks", "runs", "bytes"),
    *("gbps", "p50_us", "p99_us", "post_us", "wrong", "ratio_to_memcpy"),
}


def report() -> Report:
    rows = [row(), row("memcpy", ratio_to_memcpy=1.0, ratios={}), row("nixl", ratio_to_memcpy=None, wrong=3)]
    return Report({"command": "x <y>", "rounds": 9}, rows)


def test_json() -> None:
    told = json.loads(report().render("json"))
    assert set(told) == {"header", "rows"}
    assert all(set(one) >= WANTED for one in told["rows"])
    assert told["rows"][0]["ratios"]["memcpy"] == {"median": 0.5, "low": 0.4, "high": 0.6}


def test_csv() -> None:
    text = report().render("csv")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(io.StringIO("\n".join(lines))))
    assert len(rows) == 3
    assert set(rows[0]) >= WANTED
    assert rows[2]["wrong"] == "3"
    assert not rows[2]["ratio_to_memcpy"]


def test_table() -> None:
    text = report().render("table")
    assert "command: x <y>" in text
    assert "0.50 [0.40-0.60]" in text
    assert "GB/s" in text


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not any((value or "").startswith(("http", "//")) for _, value in attrs), "it must stand by itself"
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html() -> None:
    text = render_html(report())
    tags = Tags()
    tags.feed(text)
    assert not tags.open
    assert tags.count["svg"] == 1
    assert tags.count["rect"] == 3
    assert "x &lt;y&gt;" in text
    assert "3 wrong bytes" in text


def test_png_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(plot.importlib, "import_module", missing)
    with pytest.raises(BenchError, match="pip install matplotlib"):
        check_plot(Path("picture.png"))


# ---- bars ----------------------------------------------------------------------------------------------------------


def test_bars_are_met_by_ratios_and_missed_with_the_reason() -> None:
    cma = row("kvdirect-cma-1t", blocks=8192, block_bytes=32768, ratios={"memcpy": Ratio(0.61, 0.6, 0.62)})
    slow = row("kvdirect-message", blocks=8192, block_bytes=32768, ratios={"socket": Ratio(0.9, 0.8, 1.0)})
    planned = row("kvdirect-cma", blocks=20000, block_bytes=4096, post_us=900.0)
    outcomes = targets.judge([cma, slow, planned], {"kvdirect-shm": "this kvtransfer has no lane shm"})
    told = {(one.work, one.wanted): one for one in outcomes}
    assert told["cma, 32 KiB blocks, one copy thread", "0.6 x memcpy"].met
    assert not told["message, 32 KiB blocks", "1.1 x socket"].met
    assert not told["shm, 4 KiB blocks", "1 x memcpy"].met
    assert "no lane shm" in told["shm, 4 KiB blocks", "1 x memcpy"].measured
    assert told["20000 runs planned", "1000 us or 1 x std::sort"].met


def test_what_is_planned_slower_than_sorted_is_missed() -> None:
    planned = row("kvdirect-cma", blocks=20000, block_bytes=4096, post_us=1e6)
    told = {one.work: one for one in targets.judge([planned], {})}
    assert not told["20000 runs planned"].met
    assert "x std::sort" in told["20000 runs planned"].measured


def test_a_bar_with_wrong_bytes_is_missed() -> None:
    cma = row("kvdirect-cma-1t", blocks=8192, block_bytes=32768, ratios={"memcpy": Ratio(9, 9, 9)}, wrong=1)
    told = {one.work: one for one in targets.judge([cma], {})}
    assert not told["cma, 32 KiB blocks, one copy thread"].met


# ---- bars of a GPU -------------------------------------------------------------------------------------------------


def gpu_report(size: int, beside: str, ratio: float, **changes: Any) -> Report:  # noqa: ANN401
    blocks = (1 << 30) // size
    ours = row("kvdirect-cuda_ipc", blocks=blocks, block_bytes=size, ratios={beside: Ratio(ratio, 0, 9)}, **changes)
    return Report({}, [ours, row(beside, blocks=blocks, block_bytes=size)])


@pytest.mark.parametrize(
    ("size", "ratio", "met"), [(4096, 0.5, True), (4096, 0.49, False), (16384, 0.9, True), (4 << 20, 0.89, False)]
)
def test_small_and_large_runs_have_bars_of_their_own(size: int, ratio: float, met: bool) -> None:
    contest = gpu_targets.Contest(size, gpu_targets.COPIES)
    (outcome,) = gpu_targets.judge([(contest, gpu_report(size, "device-copy", ratio))])
    assert outcome.met is met
    (outcome,) = gpu_targets.judge([(contest, gpu_report(size, "device-copy", 9.0, wrong=1))])
    assert not outcome.met
    (outcome,) = gpu_targets.judge([(contest, "the lane is gone")])
    assert (outcome.met, outcome.measured) == (False, "the lane is gone")


def test_one_that_copies_block_by_block_must_be_there_and_all_that_are_must_be_beaten() -> None:
    ucx, nixl = (gpu_targets.Contest(16384, (name,)) for name in gpu_targets.PER_BLOCK)
    fast, slow = gpu_report(16384, "ucx", 11.0), gpu_report(16384, "nixl-best", 9.0)
    assert [one.met for one in gpu_targets.judge([(ucx, fast), (nixl, "NIXL is not installed")])] == [True]
    assert [one.met for one in gpu_targets.judge([(ucx, fast), (nixl, slow)])] == [True, False]
    (nobody,) = gpu_targets.judge([(ucx, "no CUDA in this UCX"), (nixl, "NIXL is not installed")])
    assert not nobody.met
    assert "no CUDA in this UCX" in nobody.measured
    assert "NIXL is not installed" in nobody.measured


def test_every_size_is_judged() -> None:
    held = gpu_targets.contests((4096, 16384, 1 << 20), ("ucx",))
    assert [one.size for one in held] == [4096, 16384, 1 << 20, 16384]
    assert [one.factor for one in held] == [0.5, 0.9, 0.9, 10.0]
