# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Roles that change, beside every fixed ratio, while the workload shifts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvdirect_bench.report import Outcome, aligned

from .cluster import Cluster
from .comparison import ratios
from .elastic import Elastic
from .points import Point, Slo, run_all
from .scheduler import Limits
from .workloads import Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .engine import Model
    from .points import Figures

INSTANCES = 8
SLO = Slo(ttft=2.0, tpot=0.020)
# Requests a second, tokens in, tokens out: long prompts and short answers, the other way round, then both long. Chosen
# so that no ratio suits all three.
PHASES = ((34.0, 4096, 64), (50.0, 512, 1024), (10.0, 8192, 512))
SECONDS = 150.0
# What the rule aims at. Below the limit: where the mean of a role is at the limit, half of its requests are beyond it.
AIM = 0.8 * SLO.tpot
ELASTIC = "elastic"
_WITHIN, _TIMES = 0.95, 1.3


def shift(
    model: Model, seconds: float, processes: int, seed: int = 1
) -> tuple[dict[str, Figures], list[str], list[Outcome]]:
    """The simulations of the whole trace, tables, and whether the bars are met."""
    phases = tuple(Phase(seconds, rate, prompt, outputs, 0.5) for rate, prompt, outputs in PHASES)
    fixed = {name: Cluster(model, "pull", prefill, INSTANCES - prefill) for name, prefill in ratios(INSTANCES).items()}
    half = INSTANCES // 2
    whole = {
        ELASTIC: Cluster(model, "pull", half, half, elastic=Elastic(AIM)),
        "elastic, empty first": Cluster(model, "pull", half, half, elastic=Elastic(AIM, at_once=False)),
        **fixed,
        "colocated, chunks of 2048": Cluster(model, "colocated", INSTANCES, prompts=Limits(2048)),
    }
    chosen = {(name, -1): Point(one, phases, seed=seed, slo=SLO) for name, one in whole.items()}
    for number in range(len(phases)):
        chosen |= {(name, number): Point(one, phases, seed=seed, slo=SLO, only=number) for name, one in fixed.items()}
    found = run_all(chosen, processes)
    trace = {name: found[name, -1] for name in whole}
    best = [max(found[name, number].good[number] for name in fixed) for number in range(len(phases))]
    return trace, _table(trace, best, phases), _judge(trace, list(fixed), best)


def _table(trace: dict[str, Figures], best: Sequence[float], phases: Sequence[Phase]) -> list[str]:
    table = [("", *(f"{one.rate:g}/s of {one.prompt}/{one.outputs}" for one in phases), "all")]
    for name, one in trace.items():
        table.append((name, *(f"{good:.2f}" for good in one.good), f"{one.goodput:.2f}"))
    mean = sum(best) / len(best)
    table.append(("each phase by itself, its best ratio", *(f"{good:.2f}" for good in best), f"{mean:.2f}"))
    moves = trace[ELASTIC].changes
    title = (
        f"{INSTANCES} instances, phases of {phases[0].seconds:g} s, lengths +-50 %; good requests a second: TTFT "
        f"within {SLO.ttft:g} s, TPOT within {SLO.tpot * 1e3:g} ms"
    )
    moved = ", ".join(f"{count} ({when:.0f})" for when, _, count in moves)
    told = f"elastic changed roles {len(moves)} times; instances that prefill, and from which second on: {moved}"
    return ["", title, *aligned(table, left=1), "", told]


def _judge(trace: dict[str, Figures], fixed: list[str], best: Sequence[float]) -> list[Outcome]:
    ours = trace[ELASTIC]
    outcomes = []
    for number, (good, most) in enumerate(zip(ours.good, best, strict=True), 1):
        share = good / most if most else 1.0
        wanted = f">= {_WITHIN:.0%} of the best ratio for it alone"
        outcomes.append(Outcome(f"elastic, phase {number}", wanted, f"{share:.1%}", share >= _WITHIN))
    name = max(fixed, key=lambda one: trace[one].goodput)
    times = ours.goodput / max(trace[name].goodput, 1e-9)
    return [
        *outcomes,
        Outcome("elastic, all phases", f">= {_TIMES} x any ratio", f"{times:.2f} x {name}", times >= _TIMES),
    ]
