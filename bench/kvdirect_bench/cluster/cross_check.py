# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Runs the same requests through vidur and through this simulator, by the same table: `make simulate-cross-check`.

Vidur's wheel has no measured profiles, so its predictor of step times is replaced by our table: what is compared is
everything else, namely queues, scheduler rules, blocks and the clock. One engine, colocated, as vidur has no other.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kvdirect_bench.command import Parser, say
from kvdirect_bench.errors import BenchError
from kvdirect_bench.report import Outcome, as_table

from .cluster import Cluster, simulate
from .engine import Model
from .oracle import load, seconds
from .scheduler import Limits
from .workloads import Phase, requests

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from .jobs import Request

_ALLOWED = 0.15
_OVERHEAD = 0.001
# Requests a second, tokens in and out: at ease and busy. With a cache that runs out vidur ends at an assertion.
_WORKLOADS = ((1.0, 8192, 128), (1.8, 8192, 128), (1.4, 8192, 512), (8.0, 1024, 256))
_SECONDS, _SPREAD, _BLOCK = 100.0, 0.5, 16
# What no request is longer than; a step without chunks must hold it.
_LONGEST = 16384


def main(argv: Sequence[str] | None = None) -> int:
    """Compare; 0: mean latency, TTFT and TPOT are within fifteen percent everywhere."""
    return Parser(prog="kvdirect_bench.cluster.cross_check", description=__doc__, allow_abbrev=False).main(_run, argv)


def _run(_: argparse.Namespace) -> int:
    table = load()
    outcomes = []
    for rate, prompt, outputs in _WORKLOADS:
        model = Model(table, table.kv_tokens, table.kv_bytes_per_token, _BLOCK, _OVERHEAD)
        for limits in (Limits(_LONGEST, 256, chunked=False), Limits(2048, 256)):
            theirs = _vidur(model, limits, _workload(rate, prompt, outputs))
            ours = _workload(rate, prompt, outputs)
            simulate(Cluster(model, "colocated", 1, prompts=limits, hop=0.0), ours)
            way = "chunks" if limits.chunked else "whole prompts"
            name = f"{rate:g}/s of {prompt}/{outputs}, {way}"
            outcomes += [_outcome(name, what, ours, theirs) for what in ("latency", "ttft", "tpot")]
            for one in outcomes[-3:]:
                say(f"{one.work}: {one.measured}")
    print(as_table(outcomes))
    return 0 if all(one.met for one in outcomes) else 1


def _workload(rate: float, prompt: int, outputs: int) -> list[Request]:
    return requests((Phase(_SECONDS, rate, prompt, outputs, _SPREAD),), seed=2)


def _outcome(name: str, what: str, ours: Sequence[Request], theirs: Sequence[Request]) -> Outcome:
    one, other = (sum(getattr(each, what) for each in group) / len(group) for group in (ours, theirs))
    measured = f"{one * 1e3:.1f} ms, vidur {other * 1e3:.1f} ms: {one / other - 1:+.1%}"
    return Outcome(f"{name}: {what}", f"within {_ALLOWED:.0%}", measured, abs(one / other - 1) <= _ALLOWED)


def _vidur(model: Model, limits: Limits, arrivals: list[Request]) -> list[Request]:
    """The same requests with vidur's times."""
    try:
        config = importlib.import_module("vidur.config")
        simulator = importlib.import_module("vidur.simulator")
        entities = importlib.import_module("vidur.entities")
        global_scheduler = importlib.import_module("vidur.scheduler.global_scheduler.base_global_scheduler")
    except ImportError as error:
        told = f"vidur cannot be imported ({error}); `make simulate-cross-check` makes an environment that has it"
        raise BenchError(told) from error
    served = [entities.Request(one.arrival, one.prompt, one.outputs) for one in arrivals]
    global_scheduler.ExecutionTimePredictorRegistry.get = lambda *_, **__: _Predictor(model)
    simulator.RequestGeneratorRegistry.get = lambda *_, **__: _Generator(served)
    scheduler = (
        config.SarathiSchedulerConfig(chunk_size=limits.tokens, batch_size_cap=limits.sequences)
        if limits.chunked
        else config.VllmSchedulerConfig(max_tokens_in_batch=limits.tokens, batch_size_cap=limits.sequences)
    )
    cache = config.CacheConfig(
        block_size=model.block, num_blocks=model.kv_tokens // model.block, watermark_blocks_fraction=0.0
    )
    cluster = config.ClusterConfig(
        num_replicas=1,
        replica_config=config.ReplicaConfig(num_pipeline_stages=1),
        cache_config=cache,
        # Its default counts replicas from 0, which is right for the first simulation of a process only.
        global_scheduler_config=config.LORGlobalSchedulerConfig(),
        replica_scheduler_config=scheduler,
    )
    with tempfile.TemporaryDirectory(prefix="kvdirect-cross-check-") as folder:
        # It writes its configuration there even if nothing else.
        metrics = config.MetricsConfig(
            write_metrics=False,
            write_json_trace=False,
            enable_chrome_trace=False,
            store_plots=False,
            wandb_project=None,
            output_dir=folder,
        )
        simulator.Simulator(
            config.SimulationConfig(cluster_config=cluster, metrics_config=metrics, log_level="error")
        ).run()
    return [
        replace(one, first=each.prefill_completed_at, end=each.completed_at)
        for one, each in zip(arrivals, served, strict=True)
    ]


class _Generator:
    """Gives vidur the requests that there are."""

    def __init__(self, served: list[Any]) -> None:
        self._served = served

    def generate(self) -> list[Any]:
        return self._served


class _Predictor:
    """Tells vidur how long a batch takes by our table."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._time = importlib.import_module(
            "vidur.execution_time_predictor.base_execution_time_predictor"
        ).ExecutionTimeC

    def get_execution_time(self, batch: Any, stage: int) -> Any:  # noqa: ANN401
        del stage
        parts = list(zip(batch.num_q_tokens, batch.num_kv_tokens, strict=True))
        chunks = [(tokens, known - tokens) for tokens, known in parts if tokens > 1]
        decoded = [known for tokens, known in parts if tokens == 1]
        context = sum(decoded) / len(decoded) if decoded else 0.0
        length = seconds(self._model.times, chunks, len(decoded), context) + self._model.overhead
        # One layer, all of whose milliseconds are in one of its parts.
        return self._time(1, *[0.0] * 6, length * 1e3, *[0.0] * 7)


if __name__ == "__main__":
    sys.exit(main())
