# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A run's header and rows as a table, as CSV or as JSON."""

from __future__ import annotations

import abc
import csv
import io
import itertools
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from .rows import Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from _typeshed import DataclassInstance

_CSV_COLUMNS = (
    "workload",
    "engine",
    "lane",
    "pages",
    "fragmentation",
    "block_bytes",
    "blocks",
    "runs",
    "bytes",
    "gbps",
    "p50_us",
    "p99_us",
    "post_us",
    "wrong",
    "rounds",
    "pulls",
    "ratio_to_memcpy",
    "ratio_to_device_copy",
)
_TABLE_COLUMNS = (
    "engine",
    "lane",
    "pages",
    "block",
    "blocks",
    "runs",
    "GB/s",
    "p50 us",
    "p99 us",
    "post us",
    "wrong",
)
_LEFT = 3


_Row = TypeVar("_Row", bound="DataclassInstance")


@dataclass(slots=True)
class Document(abc.ABC, Generic[_Row]):
    """A header and rows; what kind of rows they are says how they become a table."""

    columns: ClassVar[tuple[str, ...]]  # of CSV
    header: dict[str, Any]
    rows: list[_Row] = field(default_factory=list)

    @abc.abstractmethod
    def lines(self) -> list[str]:
        """The rows for people."""

    def render(self, kind: str) -> str:
        """As "table", "csv" or "json"; ends without a line's end."""
        if kind == "json":
            return json.dumps({"header": self.header, "rows": [asdict(row) for row in self.rows]}, indent=2)
        if kind == "csv":
            return self._csv()
        return "\n".join([*(f"{key}: {value}" for key, value in self.header.items()), *self.lines()])

    def _csv(self) -> str:
        """The header as comments, then the columns; a value that is not there is empty."""
        out = io.StringIO()
        for key, value in self.header.items():
            out.write(f"# {key}: {value}\n")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        for row in self.rows:
            values = asdict(row)
            writer.writerow("" if values[name] is None else values[name] for name in self.columns)
        return out.getvalue().rstrip("\n")


class Report(Document[Row]):
    """Everything a run of pulls found."""

    columns = _CSV_COLUMNS

    def lines(self) -> list[str]:
        """A table for each workload."""
        lines = []
        for workload, rows in itertools.groupby(self.rows, key=lambda row: row.workload):
            lines += ["", workload, *_of_one_workload(list(rows))]
        return lines


def _of_one_workload(rows: Sequence[Row]) -> list[str]:
    body = aligned([(*_TABLE_COLUMNS, _yardstick(rows)), *(_cells(row, _yardstick(rows)) for row in rows)], left=_LEFT)
    ratios = [
        (row.name, other, str(ratio))
        for row in rows
        if row.engine.startswith("kvdirect")
        for other, ratio in row.ratios.items()
        if not other.startswith("kvdirect")
    ]
    if not ratios:
        return body
    return [*body, "", *aligned([("times as fast", "as", "median [5-95 % of rounds]"), *ratios], left=0)]


def aligned(lines: Sequence[Sequence[str]], left: int) -> list[str]:
    """Columns of equal width; the first `left` are flush left and the others flush right, with 0 all are flush left."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "  ".join(
            cell.ljust(width) if left == 0 or column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A target, what was measured, and whether that is enough."""

    work: str
    wanted: str
    measured: str
    met: bool


def as_table(outcomes: Sequence[Outcome]) -> str:
    """What was wanted and what was measured."""
    lines = [(one.work, one.wanted, one.measured, "met" if one.met else "MISSED") for one in outcomes]
    return "\n".join(aligned([("bar", "wanted", "measured", ""), *lines], left=0))


def _yardstick(rows: Sequence[Row]) -> str:
    """What the last column compares with: a workload is of host memory or of a GPU's."""
    on_gpu = any(row.ratio_to_device_copy is not None for row in rows)
    return "x device copy" if on_gpu else "x memcpy"


def _cells(row: Row, yardstick: str) -> tuple[str, ...]:
    ratio = row.ratio_to_memcpy if yardstick == "x memcpy" else row.ratio_to_device_copy
    return (
        row.engine,
        row.lane,
        row.pages,
        str(row.block_bytes),
        str(row.blocks),
        str(row.runs),
        f"{row.gbps:.2f}",
        f"{row.p50_us:.1f}",
        f"{row.p99_us:.1f}",
        f"{row.post_us:.1f}",
        str(row.wrong),
        "" if ratio is None else f"{ratio:.2f}",
    )
