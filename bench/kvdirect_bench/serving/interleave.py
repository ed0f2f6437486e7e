# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The interleaved run: in every round each contender has its turn, in a new order, at the same prompts."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from kvdirect.harness.completions import Completion, complete
from kvdirect_bench.errors import BenchError
from kvdirect_bench.interleave import in_rounds

from .prompts import round_prompts, wake_up_prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvdirect.harness.processes import ProcessSet

    from .engine_metrics import Counted, EngineMetrics
    from .options import Options
    from .service import Service

# Without a byte; a long prompt on a slow machine takes a while.
_REQUEST_DEADLINE = 600.0


@dataclass(frozen=True, slots=True)
class Turn:
    """What one contender did in one round, and how many of its answers were not the reference's."""

    completions: tuple[Completion, ...]
    counted: Counted
    wrong: int


@dataclass(slots=True)
class Result:
    """A contender's turns, in order of rounds; wrong answers of the rounds that do not count."""

    name: str
    turns: list[Turn] = field(default_factory=list)
    warmup_wrong: int = 0


def interleave(
    services: Sequence[Service], processes: ProcessSet, options: Options, say: Callable[[str], None]
) -> list[Result]:
    """Run them all; the first is the one whose tokens the others must have.

    Args:
        services: Started and ready.
        processes: All of theirs; one that ends is noticed while requests wait.
        options: Of the run.
        say: Told about the progress.

    Raises:
        BenchError: A request failed, or its cache was not transferred.
        StartError: A process has ended.
    """
    results = {service.name: Result(service.name) for service in services}
    with contextlib.ExitStack() as stack:
        metrics = {service.name: service.watch() for service in services}
        for service in services:
            stack.callback(service.wake)  # what is stopped cannot be ended in order
            service.rest()
        for number, what, order in in_rounds(services, options.rounds, options.warmup):
            answers = {}
            for service in order:
                answers[service.name] = completions, _ = _answered(
                    service, processes, metrics[service.name], options, number
                )
                first = sum(one.ttft for one in completions) / len(completions)
                say(f"{what}: {service.name}, {first * 1e3:.0f} ms to the first token")
            reference, _ = answers[services[0].name]
            for name, (completions, counted) in answers.items():
                turn = Turn(completions, counted, count_wrong(completions, reference))
                if number >= 0:
                    results[name].turns.append(turn)
                else:
                    results[name].warmup_wrong += turn.wrong
    return list(results.values())


def _answered(
    service: Service, processes: ProcessSet, metrics: EngineMetrics, options: Options, number: int
) -> tuple[tuple[Completion, ...], Counted]:
    """A contender's turn of the round of that number."""
    prompts = round_prompts(options, number)
    with service.turn():
        # After standing still, the first request finds connections and caches cold.
        _ask(processes, service.url, [wake_up_prompt(options, number)], 2, options, f"wake{number}")
        metrics.advance(1)
        completions = _ask(processes, service.url, prompts, options.output_tokens, options, f"turn{number}")
        return completions, metrics.advance(len(prompts))


def count_wrong(completions: Sequence[Completion], reference: Sequence[Completion]) -> int:
    """Answers that differ from the reference's in any token."""
    return sum(one.tokens != right.tokens for one, right in zip(completions, reference, strict=True))


def _ask(
    processes: ProcessSet,
    url: str,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    options: Options,
    tag: str,
) -> tuple[Completion, ...]:
    """All prompts, so many at a time, each with a request id of its own."""
    calls = [
        partial(complete, url, prompt, f"{tag}-{place}", timeout=_REQUEST_DEADLINE, max_tokens=max_tokens)
        for place, prompt in enumerate(prompts)
    ]
    completions = tuple(processes.run(calls, at_once=options.concurrency))
    for one, prompt in zip(completions, prompts, strict=True):
        if len(one.tokens) != max_tokens or one.prompt_tokens != len(prompt):
            raise BenchError(
                f"{url} answered with {len(one.tokens)} tokens to {one.prompt_tokens}, "
                f"expected {max_tokens} to {len(prompt)}"
            )
    return completions
