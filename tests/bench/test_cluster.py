# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The simulated cluster against what theory and arithmetic say of it."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import pytest
import simpy

from kvdirect_bench.cluster.cluster import Cluster, Result, simulate
from kvdirect_bench.cluster.dispatch import WAYS
from kvdirect_bench.cluster.elastic import Elastic
from kvdirect_bench.cluster.engine import Model
from kvdirect_bench.cluster.jobs import Request
from kvdirect_bench.cluster.network import Link, Network
from kvdirect_bench.cluster.oracle import Constant, load, seconds
from kvdirect_bench.cluster.points import Point, Slo, coming, run
from kvdirect_bench.cluster.scheduler import Limits
from kvdirect_bench.cluster.workloads import Phase, requests
from kvdirect_bench.errors import BenchError, BenchUsageError

TABLE = load()
LARGE = Model(TABLE, TABLE.kv_tokens, TABLE.kv_bytes_per_token)
# A token of a prompt takes a millisecond, a step ten more.
PLAIN = Model(Constant(step=0.010, token=0.001), 1 << 20, 1000, overhead=0.0)
MIXED = (Phase(10.0, 6.0, 3000, 120, 0.8),)


def cluster(way: str, model: Model = LARGE, **more: object) -> Cluster:
    return Cluster(model, way, 2, 0 if way == "colocated" else 2, **more)  # type: ignore[arg-type]


def served(whole: Cluster, phases: tuple[Phase, ...] = MIXED, seed: int = 1) -> Result:
    return simulate(whole, requests(phases, seed=seed))


@pytest.mark.parametrize("busy", [0.5, 0.7])
def test_a_prefill_queue_waits_as_theory_says(busy: float) -> None:
    """M/D/1: the mean wait is rho D / (2 (1 - rho)). The gaps' quantiles, shuffled: less noise than of random ones."""
    prompt, service, count = 100, 0.110, 40_000
    gaps = [-math.log1p(-(place + 0.5) / count) * service / busy for place in range(count)]
    random.Random(5).shuffle(gaps)  # noqa: S311
    arrivals = itertools.accumulate(gaps)
    many = [Request(number, arrival, prompt, 1) for number, arrival in enumerate(arrivals)]
    simulate(Cluster(PLAIN, "colocated", 1, prompts=Limits(prompt, 100), hop=0.0), many)
    waits = [one.ttft - service for one in many]
    assert sum(waits) / count == pytest.approx(busy * service / (2 * (1 - busy)), rel=0.02)
    # Each waits for what is left of those before it.
    left = 0.0
    for gap, wait in zip(gaps, waits, strict=True):
        left = max(0.0, left - gap)
        assert wait == pytest.approx(left, abs=1e-6)
        left += service


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cache", [TABLE.kv_tokens, 7000])
def test_every_request_ends_and_all_blocks_are_free_again(way: str, cache: int) -> None:
    result = served(cluster(way, replace(LARGE, kv_tokens=cache), link=5e9))
    assert all(one.arrival < one.first <= one.end for one in result.requests)
    for one in result.instances:
        assert one.engine.blocks.free == one.engine.blocks.total
        assert one.idle
        assert max(one.out.busiest, one.into.busiest) <= 1 + 1e-9
        assert one.engine.busy <= result.seconds + 1e-6
    if way != "colocated":
        bytes_moved = sum(one.out.carried for one in result.instances)
        assert bytes_moved == pytest.approx(sum(one.prompt for one in result.requests) * LARGE.kv_bytes, rel=1e-6)


def test_blocks_that_run_out_are_taken_from_the_last_and_computed_again() -> None:
    two = [Request(0, 0.0, 90, 60), Request(1, 0.0, 90, 60)]
    result = simulate(Cluster(replace(PLAIN, kv_tokens=16 * 14), "colocated", 1, hop=0.0), two)
    assert [one.preempted for one in two] == [0, 1]
    assert two[0].end < two[1].end
    # The second one's prompt, and what it had generated, are computed again behind the first.
    alone = [Request(0, 0.0, 90, 60)]
    simulate(Cluster(PLAIN, "colocated", 1, hop=0.0), alone)
    assert two[1].end > 1.5 * alone[0].end
    assert result.instances[0].engine.blocks.least >= 0


@pytest.mark.parametrize("way", WAYS)
def test_the_same_seed_gives_the_same(way: str) -> None:
    first, again, other = (served(cluster(way), seed=seed) for seed in (7, 7, 8))
    assert [one.end for one in first.requests] == [one.end for one in again.requests]
    assert [one.end for one in first.requests] != [one.end for one in other.requests]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cache", [TABLE.kv_tokens, 7000])
def test_steps_worked_out_at_once_are_those_worked_out_singly(way: str, cache: int) -> None:
    small = replace(LARGE, kv_tokens=cache)
    at_once, singly = served(cluster(way, small)), served(cluster(way, replace(small, singly=True)))
    for one, other in zip(at_once.requests, singly.requests, strict=True):
        assert (one.first, one.end) == pytest.approx((other.first, other.end), rel=1e-9)


def tight(way: str) -> tuple[Result, list[Request]]:
    """Two requests at once, and room for one of them where they are decoded."""
    two = [Request(0, 0.0, 1000, 100), Request(1, 0.0, 1000, 100)]
    model = replace(PLAIN, kv_tokens=16 * 90)
    whole = Cluster(model, way, 2, 1, prompts=Limits(1000), hop=0.0, setup=0.0, link=1e12)
    return simulate(whole, two), two


def test_push_waits_for_room_before_prefill_and_pull_after_it() -> None:
    (pushed, by_push), (pulled, by_pull) = tight("push"), tight("pull")
    # With a push the second one's prefill, a second long, begins when the first one has ended; with a pull it is over.
    assert by_push[1].first == pytest.approx(by_push[0].end + 1.010 + 0.011, abs=1e-3)
    assert by_pull[1].first == pytest.approx(by_pull[0].end + 0.011, abs=1e-3)
    # What that costs: the prefill instance holds the blocks for as long.
    assert by_pull[1].exposed > 0.9
    assert by_push[1].exposed < 1e-3
    # Of 90 blocks each of these prompts takes 63; with a push the second prefill instance is not even asked.
    assert [each.engine.blocks.least for each in pushed.instances] == [27, 90, 21]
    assert [each.engine.blocks.least for each in pulled.instances] == [27, 27, 21]


def test_a_stream_exposes_its_last_part_only() -> None:
    exposed = {}
    for way in ("pull", "streamed"):
        one = [Request(0, 0.0, 8000, 2)]
        # Ten chunks, each a tenth of the prompt, whose transfer takes as long as its computing.
        whole = Cluster(PLAIN, way, 1, 1, prompts=Limits(800), hop=0.0, setup=0.0, link=800 * 1000 / 0.810)
        simulate(whole, one)
        exposed[way] = one[0].exposed
    assert exposed["pull"] == pytest.approx(8.10, rel=0.01)
    assert exposed["streamed"] == pytest.approx(0.81, rel=0.01)


def test_links_are_shared_equally() -> None:
    env = simpy.Environment()
    network = Network(env, setup=0.5)
    shared, first, second = Link(100.0), Link(1000.0), Link(1000.0)
    ends = {}

    def carry(name: str, size: float, *links: Link) -> simpy.events.ProcessGenerator:
        yield from network.carry(size, links)
        ends[name] = env.now

    env.process(carry("short", 100, shared, first))
    env.process(carry("long", 300, shared, second))
    env.process(carry("elsewhere", 100, Link(100.0), Link(100.0)))
    env.run()
    # Half the link each until the short one has ended, then all of it.
    assert ends == pytest.approx({"short": 2.5, "long": 4.5, "elsewhere": 1.5})
    assert shared.busiest == pytest.approx(1.0)
    assert (shared.carried, shared.flows) == (pytest.approx(400), 0)


def test_chunks_let_others_go_on_and_whole_prompts_do_not() -> None:
    tpot = {}
    for chunked in (True, False):
        both = [Request(0, 0.0, 100, 50), Request(1, 0.3, 1000, 2)]
        limits = Limits(200, 100) if chunked else Limits(1100, 100, chunked=False)
        simulate(Cluster(PLAIN, "colocated", 1, prompts=limits, hop=0.0), both)
        tpot[chunked] = both[0].tpot, both[1].ttft
    # Without chunks one step of 1.01 s is not the first one's; with them each has a token of it.
    assert tpot[False][0] == pytest.approx((49 * 0.010 + 1.010) / 49, rel=0.01)
    assert tpot[True][0] == pytest.approx((49 * 0.010 + 1.0) / 49, rel=0.01)
    assert tpot[False][1] < tpot[True][1]


def test_roles_follow_the_load_and_no_request_is_lost() -> None:
    phases = (Phase(12.0, 17.0, 4096, 64), Phase(12.0, 30.0, 512, 512))
    for at_once in (True, False):
        whole = Cluster(LARGE, "pull", 2, 2, elastic=Elastic(0.020, at_once=at_once))
        result = served(whole, phases)
        assert all(one.end > one.arrival for one in result.requests)
        early = [one.role for one in result.changes if one.decided < 10]
        late = [one.role for one in result.changes if one.decided > 12]
        assert early[:1] == ["prefill"]
        assert "decode" in late
        assert all(1 <= one.prefill <= 3 and one.joined >= one.decided for one in result.changes)
        assert all(one.engine.blocks.free == one.engine.blocks.total for one in result.instances)
        assert any(one.joined > one.decided for one in result.changes) is not at_once


@pytest.mark.parametrize(
    ("prompt", "outputs", "rate", "wanted"), [(4096, 8, 14.0, "prefill"), (64, 512, 40.0, "decode")]
)
def test_roles_follow_what_the_router_itself_measures(prompt: int, outputs: int, rate: float, wanted: str) -> None:
    """Its own meter, on how many requests each instance has."""
    whole = Cluster(LARGE, "pull", 2, 2, elastic=Elastic(0.020, decode_requests=20))
    result = served(whole, (Phase(10.0, rate, prompt, outputs),))
    assert [one.role for one in result.changes][:1] == [wanted]
    assert [one.prefill.in_flight for one in result.instances] == [0] * 4
    assert sum(one.prefill.taken for one in result.instances) == len(result.requests)


def test_one_phase_alone_has_the_requests_that_it_has_among_the_others() -> None:
    phases = (Phase(5.0, 6.0, 3000, 20), Phase(5.0, 6.0, 500, 200))
    slo = Slo(ttft=60.0, tpot=1.0)
    whole = Point(cluster("pull"), phases, slo=slo)
    alone = [replace(whole, only=number) for number in (0, 1)]
    assert coming(whole) == coming(alone[0]) + coming(alone[1])
    assert {one.phase for one in coming(alone[1])} == {1}
    good = [run(one).good for one in (whole, *alone)]
    assert good[0] == (good[1][0], good[2][1])
    assert (good[1][1], good[2][0]) == (0, 0)


def test_the_table_has_the_times_that_it_was_made_from() -> None:
    assert seconds(TABLE, [(8192, 0)], 0, 0) == pytest.approx(0.344, rel=0.01)
    assert seconds(TABLE, [], 32, 8192) == pytest.approx(0.0144, rel=0.02)
    assert seconds(TABLE, [(4096, 4096)], 0, 0) > seconds(TABLE, [(4096, 0)], 0, 0)
    assert seconds(TABLE, [(2048, 0)], 30, 4096) < seconds(TABLE, [(2048, 0)], 0, 0) + seconds(TABLE, [], 30, 4096)


BAD = {
    "way pushing: expected one of colocated, push, pull, streamed": lambda: Cluster(LARGE, "pushing", 1, 1),
    "colocated none for decode": lambda: Cluster(LARGE, "colocated", 1, 1),
    "0 instances for prefill": lambda: Cluster(LARGE, "pull", 0, 1),
    "tokens of a step 0: expected at least 1": lambda: Limits(0),
    "256 sequences do not fit a step of 100 tokens": lambda: Limits(100),
    "rate of a workload 0: expected more than 0": lambda: Phase(1.0, 0.0, 10, 10),
    "prompts of 1 tokens: expected at least 2": lambda: Phase(1.0, 1.0, 1, 10),
    "0 tokens to generate": lambda: Phase(1.0, 1.0, 10, 0),
    "a spread of 1: expected 0 to less than 1": lambda: Phase(1.0, 1.0, 10, 10, 1.0),
    "without phases": lambda: requests([]),
    "gaps even: expected poisson or fixed": lambda: requests(MIXED, gaps="even"),
    "kv_tokens 0: expected at least 1": lambda: replace(LARGE, kv_tokens=0),
    "overhead -1: expected seconds from 0": lambda: replace(LARGE, overhead=-1),
    "only 1: expected 0 to 0": lambda: Point(cluster("pull"), MIXED, only=1),
    "a link of 0 bytes a second": lambda: Link(0),
    "token_seconds 0: expected more than 0": lambda: Elastic(0.0),
    "decode_requests -1: expected at least 0": lambda: Elastic(1.0, decode_requests=-1),
    "decode_requests by way streamed: expected pull": lambda: Cluster(
        LARGE, "streamed", 1, 1, elastic=Elastic(1.0, decode_requests=1)
    ),
    "request 0 has 9000 tokens, and the cache holds 8000": lambda: simulate(
        Cluster(replace(PLAIN, kv_tokens=8000), "colocated", 1), [Request(0, 0.0, 8900, 100)]
    ),
    "request 0 has 300 tokens, and a step without chunked prefill holds 200": lambda: simulate(
        Cluster(PLAIN, "colocated", 1, prompts=Limits(200, 10, chunked=False)), [Request(0, 0.0, 200, 100)]
    ),
}


@pytest.mark.parametrize("told", BAD)
def test_what_cannot_be_is_refused(told: str) -> None:
    with pytest.raises(BenchUsageError, match=told):
        BAD[told]()


def test_what_never_ends_is_told() -> None:
    class Stuck(Constant):
        """Steps that take for ever."""

    with pytest.raises(BenchError, match="1 of 1 requests never end"):
        simulate(Cluster(replace(PLAIN, times=Stuck(step=1e6)), "colocated", 1), [Request(0, 0.0, 10, 10)])
