# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Two instances instead of four, and the ways between instances beside each other."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kvdirect_bench.report import aligned

from .comparison import BASELINES, Key, against, at_rate, baseline, rates, split
from .points import Point, run_all
from .workloads import Phase

if TYPE_CHECKING:
    from .comparison import Scope
    from .engine import Model

_FIFTY = 50
_SPLIT = "1P1D"
# Bytes a second of an instance's network, and which part of the cache there is.
_PLACES = (
    ("link 180 GB/s", 180e9, 1.0),
    ("link 11 GB/s", 11e9, 1.0),
    ("link 180 GB/s, 15 % of the cache", 180e9, 0.15),
)
_WAYS = ("push", "pull", "streamed")


def two_instances(model: Model, scope: Scope) -> list[str]:
    """One instance of each role against two colocated ones: fifty requests with fixed gaps."""
    chosen: dict[Key, Point] = {}
    for shape in scope.shapes:
        for rate in rates(model, shape[0], (0.2, 0.35, 0.45), 2):
            # The last of them comes just before the end.
            phases = (Phase((_FIFTY + 0.5) / rate, rate, *shape),)
            clusters = {name: baseline(model, shape, name, 2) for name in BASELINES}
            clusters[_SPLIT] = split(model, "pull", 1, 2)
            chosen |= {Key(*shape, rate, name): Point(one, phases, "fixed") for name, one in clusters.items()}
    found = run_all(chosen, scope.processes)
    table: list[tuple[str, ...]] = [("in", "out", "req/s", "whole prompts", "chunks", _SPLIT, "to whole", "to chunks")]
    for prompt, outputs, rate in dict.fromkeys((key.prompt, key.outputs, key.rate) for key in found):
        at = at_rate(found, (prompt, outputs), rate)
        means = [one.latency for one in (against(at, chunked=False), against(at, chunked=True), at[_SPLIT])]
        changes = [f"{means[-1] / other - 1:+.0%}" for other in means[:-1]]
        table.append((str(prompt), str(outputs), f"{rate:g}", *(f"{mean:.2f}" for mean in means), *changes))
    return ["", f"2 instances, {_FIFTY} requests, fixed gaps; mean latency in seconds", *aligned(table, left=2)]


def ways(model: Model, scope: Scope) -> list[str]:
    """Push, pull and streamed pull: over a fast and a slow link, with a large and a small cache."""
    chosen = {}
    for shape in ((8192, 512), (32768, 512)):
        rate = rates(model, shape[0], (0.4,))[0]
        for name, link, share in _PLACES:
            small = replace(model, kv_tokens=int(model.kv_tokens * share))
            for way in _WAYS:
                cluster = replace(split(small, way, 2), link=link)
                phases = (Phase(scope.requests / rate, rate, *shape),)
                chosen[*shape, rate, name, way] = Point(cluster, phases)
    found = run_all(chosen, scope.processes)
    titles = (
        "in",
        "out",
        "req/s",
        "where",
        "way",
        "mean",
        "p99",
        "TTFT",
        "p99",
        "TPOT ms",
        "exposed ms",
        "link",
        "cache",
    )
    table: list[tuple[str, ...]] = [titles]
    for (prompt, outputs, rate, name, way), one in found.items():
        grows = "*" if one.grows else ""
        seconds = (f"{value:.2f}" for value in (one.latency_p99, one.ttft, one.ttft_p99))
        rest = (f"{one.tpot * 1e3:.1f}", f"{one.exposed * 1e3:.0f}", f"{one.busiest:.0%}", f"{one.fullest:.0%}")
        what = (str(prompt), str(outputs), f"{rate:g}", name, way)
        table.append((*what, f"{one.latency:.2f}{grows}", *seconds, *rest))
    title = "2P2D by each way; seconds; link and cache: the largest part that was ever used; * a queue grows"
    return ["", title, *aligned(table, left=5)]
