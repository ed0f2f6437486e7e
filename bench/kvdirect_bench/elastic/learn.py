# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Measures on running engines what a simulation of them must be told: step times, a transfer's, a hop's."""

from __future__ import annotations

from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from kvdirect.harness.completions import complete
from kvdirect_bench.cluster.calibrate import AGGREGATED, SPLIT, Measured, learn
from kvdirect_bench.serving.engine_metrics import EngineMetrics
from kvdirect_bench.spread import median

from .engines import SEQUENCES
from .trace import tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvdirect.harness.completions import Completion
    from kvdirect.harness.processes import ManagedProcess, ProcessSet
    from kvdirect_bench.cluster.calibrate import Machine

_HISTOGRAM = "vllm:kvdirect_xfer_time_seconds"
_SHORT, _LONG, _OUTPUTS = 64, 512, 16
_ROUNDS = 12
_STREAMS = 4
_DEADLINE = 120.0
# Seeds of prompts that no trace has.
_numbers = count(1 << 32)


def measure(engines: Sequence[ManagedProcess], pair: str, processes: ProcessSet, say: Callable[[str], None]) -> Machine:
    """Ask all engines at once, as they will be busy at once in the trace, then the first two as a pair beside streams.

    Args:
        engines: All; alike.
        pair: URL of a router in front of the first, which prefills, and the second, which decodes.
        processes: All that run.
        say: Told about the progress.

    Raises:
        BenchError: A cache was not transferred.
        StartError: A process has ended.
    """
    urls = [one.url for one in engines]
    _ask(processes, [*urls, pair, pair], _SHORT, 2)  # connections and caches are cold
    short, long = (_alone(processes, urls, length) for length in (_SHORT, _LONG))
    many = _several(processes, urls)
    split = []
    metrics = EngineMetrics(engines[1].url, _HISTOGRAM, engines[1].log)
    for length in (_SHORT, _LONG):
        answers = _beside_streams(processes, pair, urls[-1], length)
        counted = metrics.advance(_ROUNDS)
        split.append(_measured(SPLIT, length, 1, answers, counted.wire / counted.transfers))
    for one in (short, long, many, *split):
        what = f"{one.name}, {one.prompt} tokens, {one.concurrency} at once"
        say(f"{what}: {one.ttft * 1e3:.0f} ms to the first token, {one.tpot * 1e3:.1f} ms a token")
    return learn(short, long, split[0], split[1], many)


def _alone(processes: ProcessSet, urls: Sequence[str], length: int) -> Measured:
    return _measured(AGGREGATED, length, 1, _ask(processes, urls, length, _ROUNDS))


def _several(processes: ProcessSet, urls: Sequence[str]) -> Measured:
    """As many as a step holds at each engine: what a further sequence costs a step."""
    return _measured(AGGREGATED, _SHORT, SEQUENCES, _ask(processes, [*urls] * SEQUENCES, _SHORT, 2, 3 * _OUTPUTS))


def _beside_streams(processes: ProcessSet, pair: str, busy: str, length: int) -> list[Completion]:
    """A pair's answers while another engine's streams keep routers and servers at work, as a trace does."""
    clients = [partial(_in_turn, pair, length, _ROUNDS, _OUTPUTS)]
    clients += [partial(_in_turn, busy, _SHORT, _ROUNDS // 2, 4 * _OUTPUTS)] * _STREAMS
    return processes.run(clients, at_once=len(clients))[0]


def _ask(
    processes: ProcessSet, urls: Sequence[str], length: int, rounds: int, outputs: int = _OUTPUTS
) -> list[Completion]:
    """A client for each URL, which asks so often in turn."""
    clients = [partial(_in_turn, url, length, rounds, outputs) for url in urls]
    return [answer for found in processes.run(clients, at_once=len(clients)) for answer in found]


def _in_turn(url: str, length: int, rounds: int, outputs: int) -> list[Completion]:
    found = []
    for _ in range(rounds):
        number = next(_numbers)
        found.append(complete(url, tokens(length, number), f"learn-{number}", timeout=_DEADLINE, max_tokens=outputs))
    return found


def _measured(name: str, length: int, at_once: int, answers: Sequence[Completion], wire: float = 0.0) -> Measured:
    outputs = len(answers[0].tokens)
    ttft = median([one.ttft for one in answers])
    tpot = median([(one.seconds - one.ttft) / (outputs - 1) for one in answers])
    return Measured(name, length, outputs, at_once, ttft, tpot, wire)
