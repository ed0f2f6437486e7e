# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What bench/elastic_bench.py does with its engines: it learns their times, and sends a trace; its simulation ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from engines import DECODE, PREFILL, wait_until_idle

from kvdirect.harness.processes import ProcessSet, router
from kvdirect_bench.cluster.workloads import Phase, requests
from kvdirect_bench.command import say
from kvdirect_bench.elastic.cli import simulated
from kvdirect_bench.elastic.compare import compare
from kvdirect_bench.elastic.learn import measure
from kvdirect_bench.elastic.trace import play

if TYPE_CHECKING:
    from pathlib import Path

    from pool import EnginePool

pytestmark = [pytest.mark.vllm, pytest.mark.engines(PREFILL, DECODE)]

PHASES = (Phase(3.0, 2.0, 200, 4, 0.5), Phase(3.0, 3.0, 40, 16, 0.5))


def test_a_trace_is_served_and_simulated(pool: EnginePool, tmp_path: Path) -> None:
    owner, reader = pool.get(PREFILL, DECODE)
    engines = [owner.process, reader.process]
    with ProcessSet([router(*engines, tmp_path)], deadline=60.0, say=say) as running:
        [front] = running.processes
        machine = measure(engines, front.url, running, say)
        trace = requests(PHASES, seed=3)
        played = play(front.url, trace, running)
    assert played.lost == []
    assert [one.number for one in played.done] == [one.number for one in trace]
    assert all(one.arrival <= one.first <= one.end for one in played.done)
    assert machine.times.step > 0
    assert machine.wire > 0
    told = simulated(machine, trace, 4)
    assert all(one.end > one.first > one.arrival for one in told.requests)
    asked = [(one.arrival, one.prompt, one.outputs, one.phase) for one in trace]
    assert [(one.arrival, one.prompt, one.outputs, one.phase) for one in told.requests] == asked
    lines, outcomes = compare(played.done, told.requests, PHASES)
    assert len(outcomes) == 4
    print("\n".join(lines))  # how far they are apart decides nothing here: engines share two cores
    wait_until_idle(owner, reader)
