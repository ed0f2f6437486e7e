# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The live trace without engines: its quotas, what it sees of changes of roles, its verdict and its command line."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kvdirect.harness.processes import ManagedProcess, ProcessSet, StartError, alive_in_group
from kvdirect_bench.cluster.jobs import Request
from kvdirect_bench.cluster.workloads import Phase
from kvdirect_bench.elastic.cli import main
from kvdirect_bench.elastic.compare import compare, judge_live
from kvdirect_bench.elastic.quota import Quota, quotas
from kvdirect_bench.elastic.trace import Played, play, tokens
from kvdirect_bench.elastic.watch import RoleWatch
from kvdirect_bench.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SPIN = "import time\nend = time.monotonic() + 1.0\nwhile time.monotonic() < end: pass\nprint(time.process_time())"
A, B = "http://a", "http://b"


@pytest.fixture
def groups() -> Iterator[list[Quota]]:
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(quotas(["one", "other"]))
        except BenchError as error:
            pytest.skip(f"needs a cpu control group of version 1 that may be divided: {error}")
        yield made
    assert not [group for group in made if group.folder.exists()]


def test_a_quota_keeps_a_process_to_its_share(groups: list[Quota]) -> None:
    group = groups[0]
    group.limit(0.2)
    assert (group.folder / "cpu.cfs_quota_us").read_text().split() == ["2000"]
    done = subprocess.run(group.around([sys.executable, "-c", SPIN]), capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.5  # of a CPU's second
    throttled = dict(line.split() for line in (group.folder / "cpu.stat").read_text().splitlines())
    assert int(throttled["nr_throttled"]) > 0


def test_who_is_let_out_is_under_no_quota(groups: list[Quota]) -> None:
    group = groups[1]
    waits = subprocess.Popen(group.around([sys.executable, "-c", "input()"]), stdin=subprocess.PIPE)
    try:
        wait_until(lambda: waits.pid in members(group), "it is in the group")
        group.let_out(waits.pid)
        assert members(group) == []
    finally:
        waits.communicate(b"\n")


def members(quota: Quota) -> list[int]:
    return [int(word) for word in (quota.folder / "cgroup.procs").read_text().split()]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_a_change_of_roles_lasts_until_the_old_one_has_nothing_left() -> None:
    watch = RoleWatch("http://router")
    watch.see(0.0, [(A, "prefill", "up"), (B, "decode", "up")])
    watch.see(1.0, [(A, "prefill", "up"), (A, "decode", "down"), (B, "decode", "up")])
    assert watch.changes == []
    watch.see(2.0, [(A, "prefill", "draining"), (A, "decode", "up"), (B, "decode", "up")])
    [change] = watch.changes
    assert (change.when, change.url, change.role, change.prefill) == (2.0, A, "decode", 0)
    assert change.drained == math.inf
    # It is not well for a moment, and of several workers one may not know yet that it drains: it drains still.
    watch.see(3.0, [(A, "prefill", "draining"), (A, "decode", "down"), (B, "decode", "up")])
    watch.see(4.0, [(A, "prefill", "up"), (A, "decode", "up"), (B, "decode", "up")])
    assert [one.drained for one in watch.changes] == [math.inf]
    watch.see(4.5, [(A, "decode", "up"), (B, "decode", "up")])
    assert [one.drained for one in watch.changes] == [2.5]
    watch.see(9.0, [(A, "decode", "up"), (B, "decode", "up")])
    assert [one.drained for one in watch.changes] == [2.5]


def served(ttft: float, tpot: float, count: int = 20) -> list[Request]:
    phases = (number % 2 for number in range(count))
    return [
        Request(number, float(number), 100, 11, phase, float(number) + ttft, float(number) + ttft + 10 * tpot)
        for number, phase in enumerate(phases)
    ]


@pytest.mark.parametrize(
    ("ttft", "tpot", "missed"),
    [
        (0.5, 0.05, set()),
        (0.55, 0.054, set()),
        (0.6, 0.05, {"TTFT"}),
        (0.5, 0.04, {"a token"}),
        (3.0, 0.05, {"TTFT", "latency", "good requests"}),
    ],
)
def test_what_differs_by_more_than_is_allowed_is_missed(ttft: float, tpot: float, missed: set[str]) -> None:
    phases = (Phase(10.0, 1.0, 100, 11), Phase(10.0, 1.0, 100, 11))
    lines, outcomes = compare(served(0.5, 0.05), served(ttft, tpot), phases)
    assert len(outcomes) == 4  # of both phases together
    assert len(lines) == 4
    assert {one.work for one in outcomes if not one.met} == {f"all, {name}" for name in missed}


def test_a_phase_of_which_nothing_was_answered_is_missed() -> None:
    phases = (Phase(10.0, 1.0, 100, 11), Phase(10.0, 1.0, 100, 11))
    simulated = served(0.5, 0.05)
    lines, outcomes = compare([one for one in simulated if one.phase == 0], simulated, phases)
    assert [one.work for one in outcomes if not one.met][:4] == [
        f"phase 2, {name}" for name in ("good requests", "TTFT", "a token", "latency")
    ]
    assert "-" in lines[2].split()


def test_what_is_not_sent_any_more_keeps_nobody() -> None:
    """The process that serves has ended: threads that wait for the time of a request end with the trace."""
    gone = ManagedProcess("gone", [sys.executable, "-c", ""], "http://127.0.0.1:9", Path("/dev/null"))
    gone.start()
    wait_until(lambda: gone.group > 0 and not alive_in_group(gone.group), "it has ended")
    with pytest.raises(StartError, match="gone ended with status 0"):
        play(gone.url, [Request(number, 600.0, 10, 2) for number in range(4)], ProcessSet([gone], deadline=1.0))
    wait_until(lambda: all("ThreadPool" not in one.name for one in threading.enumerate()), "all threads have ended")


def test_a_request_that_is_lost_and_a_change_that_lasts_are_missed() -> None:
    watch = RoleWatch("http://router")
    watch.see(0.0, [(A, "prefill", "up")])
    watch.see(1.0, [(A, "prefill", "draining"), (A, "decode", "up")])
    played = Played(served(0.5, 0.05), ["request 7: gone"], 0.0, 0.0)
    assert [one.met for one in judge_live(played, watch.changes)] == [False, False]
    watch.see(4.0, [(A, "decode", "up")])
    assert [one.met for one in judge_live(replace(played, lost=[]), watch.changes)] == [True, True]
    # A run in which nothing changed shows nothing.
    assert [one.met for one in judge_live(replace(played, lost=[]), [])] == [True, False]


def test_prompts_differ_from_their_first_block_on() -> None:
    assert len({tuple(tokens(16, seed)) for seed in range(200)}) == 200
    assert tokens(30, 4) == tokens(30, 4)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--cpus", "-1"), "--cpus -1: expected 0, or 0.1 to 64"),
        (("--cpus", "0.05"), "--cpus 0.05: expected 0, or 0.1 to 64"),
        (("--cpus", "inf"), "--cpus inf: expected 0, or"),
        (("--seconds", "nan"), "seconds of a workload nan: expected more than 0"),
        (("--seconds", "0.2"), "--seconds 0.2: no request comes in phase 2; give it more"),
        (("--decode-requests", "0"), "--decode-requests 0: expected"),
        (("--seconds", "0"), "seconds of a workload 0: expected more than 0"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(list(words)) == 2
    assert told in capsys.readouterr().err
