# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Runs a small trace on three real vLLM engines whose roles the router changes, and simulates it.

The engines are asked first for what the simulation must be told: how long steps, transfers and hops take. Then requests
come at fixed times: long prompts, long answers, long prompts again. Nobody tells the router. Results go to standard
output, progress to standard error. Exit status 0: no request was lost, changes were fast, the simulation agrees.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from kvdirect.harness.model import make_llama
from kvdirect.harness.processes import ProcessSet, StartError, router
from kvdirect_bench.cluster.cluster import Cluster, simulate
from kvdirect_bench.cluster.elastic import Elastic
from kvdirect_bench.cluster.engine import Model
from kvdirect_bench.cluster.scheduler import Limits
from kvdirect_bench.cluster.workloads import Phase, requests
from kvdirect_bench.command import Parser, interrupted, say
from kvdirect_bench.errors import BenchError, BenchUsageError
from kvdirect_bench.header import describe_machine
from kvdirect_bench.report import as_table

from .compare import CHANGE_WITHIN, SLO, compare, judge_live
from .engines import NAMES, SEQUENCES, SHAPE, STEP_TOKENS, make_engines
from .learn import measure
from .quota import LEAST, quotas
from .trace import play
from .watch import RoleWatch

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from kvdirect_bench.cluster.calibrate import Machine
    from kvdirect_bench.cluster.cluster import Result
    from kvdirect_bench.cluster.jobs import Request

    from .quota import Quota
    from .trace import Played
    from .watch import RoleChange

# Requests a second, tokens in, tokens out: two engines must prefill, then two decode, then two prefill again.
_PHASES = ((1.7, 384, 8), (2.5, 48, 32), (1.7, 384, 8))
_SPREAD = 0.5
_MOST_CPUS = 64.0
# A cache that does not run out, and what a token of it counts on the wire: only its time matters.
_KV_TOKENS, _KV_BYTES = 1 << 20, 1 << 20


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 0: all bars are met, 1: not so, or it failed, 2: wrong usage."""
    parser = Parser(prog="elastic_bench.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each phase (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=1, help="of the requests' times and lengths (default: %(default)s)")
    parser.add_argument(
        "--cpus",
        type=float,
        default=0.4,
        help="that the core of each engine may use, kept by a control group; 0: no limit, for machines with two cores "
        "for each (default: %(default)g)",
    )
    parser.add_argument(
        "--decode-requests",
        type=int,
        default=4,
        help="of which the router thinks an engine that decodes is fully used (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all requests there, of both")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep logs and model there")
    previous = signal.signal(signal.SIGTERM, interrupted)
    try:
        return parser.main(_run, argv)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _run(args: argparse.Namespace) -> int:
    if args.cpus and not LEAST <= args.cpus <= _MOST_CPUS:
        raise BenchUsageError(f"--cpus {args.cpus:g}: expected 0, or {LEAST:g} to {_MOST_CPUS:g}")
    if args.decode_requests < 1:
        raise BenchUsageError(f"--decode-requests {args.decode_requests}: expected at least 1")
    phases = tuple(Phase(args.seconds, *phase, _SPREAD) for phase in _PHASES)
    trace = requests(phases, seed=args.seed)
    for number in range(len(phases)):
        if all(one.phase != number for one in trace):
            raise BenchUsageError(f"--seconds {args.seconds:g}: no request comes in phase {number + 1}; give it more")
    for key, value in describe_machine([Path(sys.argv[0]).name, *sys.argv[1:]]).items():
        print(f"{key}: {value}")
    try:
        machine, played, changes = _live(args, trace)
    except (StartError, httpx.HTTPError, ValueError) as error:
        raise BenchError(f"{type(error).__name__}: {error}") from error
    found = simulated(machine, trace, args.decode_requests)
    lines, outcomes = compare(played.done, found.requests, phases)
    print(f"\nlearned: {machine}")
    good = f"good: TTFT within {SLO.ttft:g} s, {SLO.tpot * 1e3:g} ms a token"
    print(f"{good}; sent late by {played.latest * 1e3:.0f} ms at most")
    print("\n".join(["", *lines, "", *_changes(changes, played.began, found), "", *played.lost[:5]]))
    outcomes = [*judge_live(played, changes), *outcomes]
    print(as_table(outcomes))
    if args.json is not None:
        both = {"live": played.done, "simulated": found.requests}
        try:
            args.json.write_text(json.dumps({name: [asdict(one) for one in of] for name, of in both.items()}))
        except OSError as error:
            raise BenchError(f"--json {args.json}: cannot be written ({error.strerror})") from error
    return 0 if all(one.met for one in outcomes) else 1


def _live(args: argparse.Namespace, trace: Sequence[Request]) -> tuple[Machine, Played, list[RoleChange]]:
    with contextlib.ExitStack() as stack:
        folder = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kvdirect-elastic-")))
        folder.mkdir(parents=True, exist_ok=True)
        say(f"making a Llama of {SHAPE.parameters / 1e6:.0f} million random weights")
        model = make_llama(folder.resolve() / "model", SHAPE)
        groups: list[Quota] = stack.enter_context(quotas(NAMES)) if args.cpus else []
        engines = make_engines(model, folder, groups)
        say(f"starting {len(engines)} engines; this takes a minute")
        running = stack.enter_context(ProcessSet(engines, deadline=600.0, say=say))
        for group, engine in zip(groups, engines, strict=False):
            # Elsewhere the HTTP server has a core of its own; here it would take a request's steps away.
            group.let_out(engine.group)
            group.limit(args.cpus)
        first, second, third = engines
        with ProcessSet([router(first, second, folder, "pair")], deadline=60.0, say=say) as pair:
            machine = measure(engines, pair.processes[0].url, running, say)
        front = router(
            first,
            second,
            folder,
            "elastic",
            options=("--decode", third.url, "--elastic", "--elastic-decode-requests", str(args.decode_requests)),
        )
        stack.enter_context(ProcessSet([front], deadline=60.0, say=say))
        say(f"sending {len(trace)} requests in {trace[-1].arrival:.0f} s")
        with RoleWatch(front.url) as watch:
            played = play(front.url, trace, running)
            watch.wait_drained(2 * CHANGE_WITHIN)
        return machine, played, watch.changes


def simulated(machine: Machine, trace: Sequence[Request], decode_requests: int) -> Result:
    """The same requests, served by simulated engines as fast as the measured ones, of which one prefills at first."""
    limits = Limits(STEP_TOKENS, SEQUENCES)
    cluster = Cluster(
        Model(machine.times, _KV_TOKENS, _KV_BYTES, overhead=0.0),
        "pull",
        prefill=1,
        decode=len(NAMES) - 1,
        prompts=limits,
        tokens=limits,
        link=_KV_BYTES / machine.wire,
        setup=machine.setup,
        hop=machine.hop,
        elastic=Elastic(SLO.tpot, decode_requests=decode_requests),
    )
    return simulate(cluster, [replace(one) for one in trace])


def _changes(live: Sequence[RoleChange], began: float, simulated: Result) -> list[str]:
    ours = ", ".join(
        f"{one.when - began:.1f} s {one.prefill} (old role ended after {one.drained:.1f} s)" for one in live
    )
    theirs = ", ".join(f"{one.joined:.1f} s {one.prefill}" for one in simulated.changes)
    return [f"instances that prefill, from when on: {ours}", f"simulated: {theirs}"]


if __name__ == "__main__":
    sys.exit(main())
