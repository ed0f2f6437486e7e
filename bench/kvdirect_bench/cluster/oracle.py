# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""How long an engine's step takes: from a table that `fit.py` writes, or that a run of the serving benchmark gives."""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kvdirect_bench.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Sequence

TABLE = Path(__file__).with_name("llama70b_h100_tp8.json")


class StepTimes(Protocol):
    """Seconds of one step, without what the scheduler costs.

    The time of a step is `dense` of all its tokens, `prefill` of each of its chunks, and `decode` of its sequences.
    """

    def dense(self, tokens: int) -> float:
        """All that depends on the number of tokens alone: projections, MLP, reductions between GPUs."""

    def prefill(self, chunk: int, context: int) -> float:
        """The attention of a chunk of that many tokens behind `context` others."""

    def decode(self, sequences: int, context: float) -> float:
        """The attention of so many sequences of one token each, behind `context` tokens on average."""


def seconds(times: StepTimes, chunks: Sequence[tuple[int, int]], sequences: int, context: float) -> float:
    """One step.

    Args:
        times: Of the model on its machine.
        chunks: Of each prompt in the step, tokens and those before them.
        sequences: That are decoded.
        context: Tokens of theirs, on average.
    """
    tokens = sequences + sum(chunk for chunk, _ in chunks)
    whole = times.dense(tokens) + sum(times.prefill(chunk, before) for chunk, before in chunks)
    return whole + times.decode(sequences, context) if sequences else whole


@dataclass(frozen=True, slots=True)
class Constant:
    """Step times by a rule that can be worked out by hand; for tests, and for queues that theory knows.

    Attributes:
        step: Seconds of any step.
        token: Seconds a token of a prompt.
    """

    step: float = 0.0
    token: float = 0.0

    def dense(self, tokens: int) -> float:
        """The same for all."""
        del tokens
        return self.step

    def prefill(self, chunk: int, context: int) -> float:
        """By the token."""
        del context
        return self.token * chunk

    def decode(self, sequences: int, context: float) -> float:
        """Nothing beyond the step's own."""
        del sequences, context
        return 0.0


@dataclass(frozen=True, slots=True)
class Line:
    """Values at places of one axis, linear between them, and beyond them as in the last field."""

    places: tuple[float, ...]
    values: tuple[float, ...]

    def at(self, place: float) -> float:
        """The value there."""
        i, u = _place(self.places, place)
        return self.values[i] + (self.values[i + 1] - self.values[i]) * u


@dataclass(frozen=True, slots=True)
class Grid:
    """Values at the crossings of two axes, linear between them, and beyond them as within the last field."""

    rows: tuple[float, ...]
    columns: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]

    def at(self, row: float, column: float) -> float:
        """The value there."""
        i, u = _place(self.rows, row)
        j, v = _place(self.columns, column)
        low, high = self.values[i], self.values[i + 1]
        first = low[j] + (low[j + 1] - low[j]) * v
        second = high[j] + (high[j + 1] - high[j]) * v
        return first + (second - first) * u


def _place(axis: tuple[float, ...], value: float) -> tuple[int, float]:
    """The field that a value lies in, and how far; what lies below the first is at the first."""
    index = min(max(bisect_right(axis, value) - 1, 0), len(axis) - 2)
    low, high = axis[index], axis[index + 1]
    return index, max(0.0, (value - low) / (high - low))


@dataclass(frozen=True, slots=True)
class Table:
    """Step times as a file has them; see `fit.py` for what they are.

    Attributes:
        model: Whose they are, on which machine, and where they are from.
        kv_bytes_per_token: Of the whole model.
        kv_tokens: That an engine's cache holds.
    """

    model: str
    kv_bytes_per_token: int
    kv_tokens: int
    _dense: Line
    _prefill: Grid
    _decode: Grid

    def dense(self, tokens: int) -> float:
        """See `StepTimes`."""
        return self._dense.at(tokens)

    def prefill(self, chunk: int, context: int) -> float:
        """See `StepTimes`."""
        return self._prefill.at(chunk, context)

    def decode(self, sequences: int, context: float) -> float:
        """See `StepTimes`."""
        return self._decode.at(sequences, context)


def load(file: Path = TABLE) -> Table:
    """Read a table.

    Raises:
        BenchError: There is none, or it lacks something; says what.
    """
    try:
        told = json.loads(file.read_text())
        return Table(
            model=str(told["model"]),
            kv_bytes_per_token=int(told["kv_bytes_per_token"]),
            kv_tokens=int(told["kv_tokens"]),
            _dense=_line(told["dense"]),
            _prefill=_grid(told["prefill"], "chunks", "contexts"),
            _decode=_grid(told["decode"], "sequences", "contexts"),
        )
    except OSError as error:
        told = f"{file}: cannot be read ({error.strerror}); `python -m kvdirect_bench.cluster.fit` writes one"
        raise BenchError(told) from error
    except KeyError as error:
        told = f"{file}: has no {error}; expected what `python -m kvdirect_bench.cluster.fit` writes"
        raise BenchError(told) from error
    except (ValueError, TypeError) as error:
        raise BenchError(f"{file}: not a table of step times: {error}") from error


def _line(told: dict[str, list[float]]) -> Line:
    return Line(_axis(told, "tokens"), _times(told["milliseconds"], len(told["tokens"])))


def _grid(told: dict[str, Any], rows: str, columns: str) -> Grid:
    width = len(told[columns])
    values = tuple(_times(line, width) for line in told["milliseconds"])
    if len(values) != len(told[rows]):
        raise ValueError(f"{len(values)} lines of times for {len(told[rows])} {rows}")
    return Grid(_axis(told, rows), _axis(told, columns), values)


def _axis(told: dict[str, list[float]], name: str) -> tuple[float, ...]:
    places = tuple(float(place) for place in told[name])
    if len(places) < 2 or list(places) != sorted(set(places)):
        raise ValueError(f"{name} do not rise, or are fewer than two")
    return places


def _times(milliseconds: list[float], count: int) -> tuple[float, ...]:
    """In seconds."""
    if len(milliseconds) != count:
        raise ValueError(f"{len(milliseconds)} times for {count} places")
    if min(milliseconds) < 0:
        raise ValueError(f"a time of {min(milliseconds)} ms")
    return tuple(value / 1e3 for value in milliseconds)
