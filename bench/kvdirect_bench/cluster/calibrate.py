# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Judges the simulator by runs of the serving benchmark: some of them give it its times, the others it must tell."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvdirect_bench.errors import BenchUsageError
from kvdirect_bench.report import Outcome, aligned, as_table
from kvdirect_bench.spread import median

from .cluster import Cluster, simulate
from .engine import Model
from .jobs import Request
from .scheduler import Limits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .cluster import Result

AGGREGATED, SPLIT = "aggregated", "kvdirect"
_ALLOWED = 0.15
# Tokens of a cache that is never full, and what a token of it counts on the wire: only its time matters.
_KV_TOKENS, _KV_BYTES = 1 << 20, 1 << 20


@dataclass(frozen=True, slots=True)
class Measured:
    """A contender's row of one run. Times in seconds.

    Attributes:
        name: Of the contender.
        prompt: Tokens.
        outputs: Tokens.
        concurrency: Requests at the same time.
        ttft: To the first token, median.
        tpot: A token after that, median.
        wire: Of a transfer, mean; 0 where nothing is transferred.
    """

    name: str
    prompt: int
    outputs: int
    concurrency: int
    ttft: float
    tpot: float
    wire: float

    @property
    def context(self) -> float:
        """Tokens before a decoded one, on average."""
        return self.prompt + self.outputs / 2


@dataclass(frozen=True, slots=True)
class MeasuredTimes:
    """Step times from a few measurements.

    Attributes:
        step: Seconds of a step of one token.
        token: Seconds of each further token.
        pair: Seconds of attention for each token of a prompt and each one before it.
        read: Seconds of attention for each token that a decoded one looks at.
        sequence: Seconds of each further sequence that is decoded, beyond those of a token; negative: it costs less.
    """

    step: float
    token: float
    pair: float
    read: float
    sequence: float = 0.0

    def dense(self, tokens: int) -> float:
        """See `StepTimes`."""
        return self.step + self.token * (tokens - 1)

    def prefill(self, chunk: int, context: int) -> float:
        """See `StepTimes`."""
        return self.pair * chunk * (context + chunk / 2)

    def decode(self, sequences: int, context: float) -> float:
        """See `StepTimes`."""
        return self.read * sequences * context + self.sequence * max(0, sequences - 1)


@dataclass(frozen=True, slots=True)
class Machine:
    """All that the simulator is told: step times, a transfer's set-up and seconds a token, a hop's seconds."""

    times: MeasuredTimes
    setup: float
    wire: float
    hop: float


def judge_files(files: Sequence[Path]) -> int:
    """Print what was measured and simulated; the exit status, 1 where they differ by more than is allowed.

    Raises:
        BenchUsageError: A file is no such run, or the runs do not suffice; says which are needed.
    """
    rows = [row for file in files for row in read(file)]
    *given, split_long = _known(rows)
    machine = learn(given[0], given[1], given[2], split_long)
    lines = [("contender", "in", "out", "at once", "TTFT ms", "simulated", "ms/token", "simulated", "")]
    outcomes = []
    for row in rows:
        ttft, tpot = told(machine, row)
        what = (row.name, str(row.prompt), str(row.outputs), str(row.concurrency))
        times = (f"{row.ttft * 1e3:.1f}", f"{ttft * 1e3:.1f}", f"{row.tpot * 1e3:.2f}", f"{tpot * 1e3:.2f}")
        lines.append((*what, *times, "given" if row in given else ""))
        if row not in given:
            outcomes += [_outcome(row, "TTFT", ttft / row.ttft - 1), _outcome(row, "per token", tpot / row.tpot - 1)]
    print("\n".join(aligned(lines, left=1)))
    print("\n" + as_table(outcomes))
    return 0 if all(one.met for one in outcomes) else 1


def _outcome(row: Measured, what: str, change: float) -> Outcome:
    work = f"{row.name}, {row.prompt}/{row.outputs}, {row.concurrency} at once, {what}"
    return Outcome(work, f"within {_ALLOWED:.0%}", f"{change:+.1%}", abs(change) <= _ALLOWED)


def read(file: Path) -> list[Measured]:
    """The rows of `serving_bench.py --format json` that can be simulated."""
    try:
        run = json.loads(file.read_text())
        header = run["header"]
        return [
            Measured(
                name=row["name"],
                prompt=int(header["prompt_tokens"]),
                outputs=int(header["output_tokens"]),
                concurrency=int(header["concurrency"]),
                ttft=row["ttft_ms"] / 1e3,
                tpot=row["tpot_ms"] / 1e3,
                wire=(row["wire_ms"] or 0.0) / 1e3,
            )
            for row in run["rows"]
            if row["name"] in (AGGREGATED, SPLIT)
        ]
    except OSError as error:
        raise BenchUsageError(f"--calibrate {file}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise BenchUsageError(
            f"--calibrate {file}: expected what `serving_bench.py --format json` writes; {what}"
        ) from error


def _known(rows: Sequence[Measured]) -> tuple[Measured, Measured, Measured, Measured]:
    """The runs that give the times: shortest and longest prompts, one request at a time, of both contenders."""
    ends = []
    for name in (AGGREGATED, SPLIT):
        alone = sorted((row for row in rows if row.name == name and row.concurrency == 1), key=lambda row: row.prompt)
        if len({row.prompt for row in alone}) < 3:
            raise BenchUsageError(
                f"--calibrate: {len({row.prompt for row in alone})} lengths of prompts by {name}, one request at a "
                "time: expected 3, two that give the times and one that is judged (serving_bench.py --prompt-tokens)"
            )
        ends += [alone[0], alone[-1]]
    return ends[0], ends[1], ends[2], ends[3]


def learn(
    short: Measured, long: Measured, split_short: Measured, split_long: Measured, many: Measured | None = None
) -> Machine:
    """Step times from colocated runs; hops from the shorter split one, and of both what a transfer takes by itself.

    Args:
        short: Colocated, one request at a time.
        long: The same of longer prompts.
        split_short: By a pair of engines, one request at a time.
        split_long: The same of longer prompts.
        many: Colocated, two or more at a time, each decoding all the while; None: a sequence costs what a token costs.
    """
    read_cost = max(0.0, (long.tpot - short.tpot) / (long.context - short.context))
    step = short.tpot - read_cost * short.context
    # TTFT = step + token (n - 1) + pair n n / 2, for both lengths.
    n, m = short.prompt, long.prompt
    a, b = short.ttft - step, long.ttft - step
    pair = max(0.0, (b / (m - 1) - a / (n - 1)) / (m * m / 2 / (m - 1) - n * n / 2 / (n - 1)))
    token = (b - pair * m * m / 2) / (m - 1)
    sequence = 0.0
    if many is not None:
        others = max(1, many.concurrency - 1)
        sequence = max(0.0, (many.tpot - step - read_cost * many.concurrency * many.context) / others) - token
    times = MeasuredTimes(step, token, pair, read_cost, sequence)
    wire = max(1e-12, (split_long.wire - split_short.wire) / (split_long.prompt - split_short.prompt))
    setup = max(0.0, split_short.wire - wire * split_short.prompt)
    # Two hops, which the shortest prompt tells best: two engines that prefill long ones differ by more than a hop.
    beyond = split_short.ttft - told(Machine(times, setup, wire, 0.0), split_short)[0]
    return Machine(times, setup, wire, max(0.0, beyond / 2))


def told(machine: Machine, row: Measured) -> tuple[float, float]:
    """What the simulator says of that run: medians of TTFT and of seconds a token."""
    model = Model(machine.times, _KV_TOKENS, _KV_BYTES, overhead=0.0)
    limits = Limits(max(row.prompt + row.outputs, 2048), row.concurrency)
    # A colocated engine's hop is in its TTFT, and thereby in its step times.
    cluster = (
        Cluster(model, "colocated", 1, prompts=limits, hop=0.0)
        if row.name == AGGREGATED
        else Cluster(
            model, "pull", 1, 1, limits, limits, link=_KV_BYTES / machine.wire, setup=machine.setup, hop=machine.hop
        )
    )
    requests = [Request(number, 0.0, row.prompt, row.outputs) for number in range(8 * row.concurrency)]
    done: Result = simulate(cluster, requests, clients=row.concurrency)
    return median([one.ttft for one in done.requests]), median([one.tpot for one in done.requests])
