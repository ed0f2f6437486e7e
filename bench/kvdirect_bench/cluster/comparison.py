# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Disaggregated serving beside colocated engines on the same number of GPUs, over rate and ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvdirect_bench.report import aligned

from .cluster import Cluster
from .points import Point, run_all
from .scheduler import Limits
from .workloads import Phase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .engine import Model
    from .points import Figures

INSTANCES = 4
GOAL = -0.55
WHOLE, *CHUNKED = BASELINES = ("whole prompts", "chunks of 2048", "chunks of 8192")
_SEEDS = (1, 2, 3, 4, 5)
_UNITS = (
    "; latency (mean, p99) and TTFT in seconds, TPOT in ms; * a queue grows; last, by ratio: change of mean latency to "
    "whole prompts and to chunks"
)


@dataclass(frozen=True, slots=True)
class Scope:
    """What is compared.

    Attributes:
        shapes: Tokens of prompts, and tokens generated.
        shares: Rates, as parts of the one at which prefill alone would keep all instances busy.
        requests: Of each simulation, about.
        processes: Simulations at a time.
    """

    shapes: tuple[tuple[int, int], ...] = (
        (8192, 128), (8192, 512), (16384, 128), (16384, 512), (32768, 128), (32768, 512),
    )  # fmt: skip
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.6, 0.65, 0.7, 0.75)
    requests: int = 400
    processes: int = 0


@dataclass(frozen=True, slots=True)
class Key:
    """Which simulation: prompts and outputs in tokens, requests a second, who serves, and the workload's seed."""

    prompt: int
    outputs: int
    rate: float
    serves: str
    seed: int = 1


Found = dict[Key, "Figures"]


@dataclass(frozen=True, slots=True)
class Best:
    """The point of a workload where disaggregation gains most over a baseline whose queue does not grow.

    Attributes:
        shape: Of the requests.
        chunked: The baseline prefills in chunks: the better of those.
        rate: Requests a second.
        serves: The ratio.
    """

    shape: tuple[int, int]
    chunked: bool
    rate: float
    serves: str


def baseline(model: Model, shape: tuple[int, int], name: str, instances: int = INSTANCES) -> Cluster:
    """Colocated engines. Without chunks a step holds what the longest request needs, as vLLM's default did."""
    limits = {WHOLE: Limits(sum(shape), 256, chunked=False), CHUNKED[0]: Limits(2048), CHUNKED[1]: Limits(8192)}
    return Cluster(model, "colocated", instances, prompts=limits[name])


def split(model: Model, way: str, prefill: int, instances: int = INSTANCES) -> Cluster:
    """So many for prefill, and the rest for decode. Only streams need chunks that are short."""
    return Cluster(model, way, prefill, instances - prefill, prompts=Limits(2048 if way == "streamed" else 8192))


def ratios(instances: int = INSTANCES) -> dict[str, int]:
    """Every ratio as it is written, and its prefill instances."""
    return {f"{prefill}P{instances - prefill}D": prefill for prefill in range(1, instances)}


def rates(model: Model, prompt: int, shares: Sequence[float], instances: int = INSTANCES) -> list[float]:
    """Requests a second."""
    alone = model.times.dense(prompt) + model.times.prefill(prompt, 0)
    return [round(share * instances / alone, 2) for share in shares]


def prefill_load(model: Model, prompt: int, rate: float, prefill: int) -> float:
    """The part of their time that so many prefill instances need; from 1 on TTFT grows with the length of the run."""
    return rate * (model.times.dense(prompt) + model.times.prefill(prompt, 0)) / prefill


def at_rate(found: Mapping[Key, Figures], shape: tuple[int, int], rate: float, seed: int = 1) -> dict[str, Figures]:
    """Who served such requests at a rate, and how."""
    return {
        key.serves: one
        for key, one in found.items()
        if (key.prompt, key.outputs) == shape and key.rate == rate and key.seed == seed
    }


def rates_of(found: Mapping[Key, Figures], shape: tuple[int, int]) -> list[float]:
    """All rates at which such requests came."""
    return sorted({key.rate for key in found if (key.prompt, key.outputs) == shape})


def against(at: Mapping[str, Figures], *, chunked: bool) -> Figures:
    """A baseline: whole prompts, or the better of those with chunks."""
    return min((at[name] for name in CHUNKED), key=lambda one: one.latency) if chunked else at[WHOLE]


def compare(model: Model, scope: Scope) -> tuple[Found, list[str]]:
    """All simulations of the comparison, and their tables."""
    found = run_all(_points(model, scope), scope.processes)
    lines = []
    for shape in scope.shapes:
        lines += [
            "",
            f"{shape[0]} tokens in, {shape[1]} out, {INSTANCES} instances, Poisson{_UNITS}",
            *_table(found, shape),
        ]
    return found, [*lines, *_verdict(model, found, scope)]


def _points(model: Model, scope: Scope) -> dict[Key, Point]:
    """Every baseline and every ratio, with pulls, at every rate."""
    return {
        Key(*shape, rate, serves): _point(model, shape, rate, serves, scope)
        for shape in scope.shapes
        for rate in rates(model, shape[0], scope.shares)
        for serves in (*BASELINES, *ratios())
    }


def _point(model: Model, shape: tuple[int, int], rate: float, serves: str, scope: Scope, seed: int = 1) -> Point:
    cluster = baseline(model, shape, serves) if serves in BASELINES else split(model, "pull", ratios()[serves])
    return Point(cluster, (Phase(scope.requests / rate, rate, *shape),), seed=seed)


def _table(found: Found, shape: tuple[int, int]) -> list[str]:
    columns = ("mean", "p99", "TTFT", "TPOT")
    table = [["req/s", "whole", *columns, "chunks", *columns, "pull", *columns, *ratios()]]
    for rate in rates_of(found, shape):
        at = at_rate(found, shape, rate)
        whole, chunked = against(at, chunked=False), against(at, chunked=True)
        best = min(ratios(), key=lambda name: at[name].latency)
        changes = [f"{_change(at[name], whole)} {_change(at[name], chunked)}" for name in ratios()]
        size = next(name for name in CHUNKED if at[name] is chunked).rpartition(" ")[2]
        cells = ["", *_cells(whole), size, *_cells(chunked), best, *_cells(at[best])]
        table.append([f"{rate:g}", *cells, *changes])
    return aligned(table, left=1)


def _cells(one: Figures) -> list[str]:
    grows = "*" if one.grows else ""
    return [f"{one.latency:.2f}{grows}", f"{one.latency_p99:.2f}", f"{one.ttft:.2f}", f"{one.tpot * 1e3:.1f}"]


def _change(one: Figures, other: Figures) -> str:
    return f"{one.latency / other.latency - 1:+.0%}"


def best(found: Found, shape: tuple[int, int], *, chunked: bool) -> Best | None:
    """Over all rates where the baseline's queue does not grow, and over all ratios; None: it always grows."""
    tried: dict[tuple[float, str], float] = {}
    for rate in rates_of(found, shape):
        at = at_rate(found, shape, rate)
        other = against(at, chunked=chunked)
        if not other.grows:
            tried |= {(rate, name): at[name].latency / other.latency for name in ratios()}
    if not tried:
        return None
    return Best(shape, chunked, *min(tried, key=tried.__getitem__))


def _verdict(model: Model, found: Found, scope: Scope) -> list[str]:
    """The best points, with further seeds: chosen by one seed alone, a best point flatters."""
    chosen = [best(found, shape, chunked=chunked) for shape in scope.shapes for chunked in (False, True)]
    again = {
        Key(*one.shape, one.rate, serves, seed): _point(model, one.shape, one.rate, serves, scope, seed)
        for one in chosen
        if one is not None
        for serves in (*BASELINES, one.serves)
        for seed in _SEEDS[1:]
    }
    more = {**found, **run_all(again, scope.processes)}
    table: list[tuple[str, ...]] = [
        ("in", "out", "against", "req/s", "ratio", "latency", "of seeds", "p99", "TTFT", "TPOT", "load", f"{GOAL:.0%}")
    ]
    table += [_line(model, more, one) for one in chosen if one is not None]
    title = (
        "Where latency falls most while no queue of the baseline grows: chosen by seed 1, changes: means of "
        f"{len(_SEEDS)} seeds; load: of the prefill instances"
    )
    return ["", title, *aligned(table, left=3)]


def _line(model: Model, found: Found, one: Best) -> tuple[str, ...]:
    changes = []
    for seed in _SEEDS:
        at = at_rate(found, one.shape, one.rate, seed)
        ours, other = at[one.serves], against(at, chunked=one.chunked)
        names = ("latency", "latency_p99", "ttft", "tpot")
        changes.append([getattr(ours, name) / getattr(other, name) - 1 for name in names])
    latency, p99, ttft, tpot = (sum(part) / len(changes) for part in zip(*changes, strict=True))
    return (
        *(str(tokens) for tokens in one.shape),
        "chunks" if one.chunked else "whole prompts",
        f"{one.rate:g}",
        one.serves,
        f"{latency:+.0%}",
        f"{min(changes)[0]:+.0%} to {max(changes)[0]:+.0%}",
        f"{p99:+.0%}",
        f"{ttft:+.0%}",
        f"{tpot:+.0%}",
        f"{prefill_load(model, one.shape[0], one.rate, ratios()[one.serves]):.0%}",
        "reached" if latency <= GOAL else "not reached",
    )
