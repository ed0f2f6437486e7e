# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A run's header and rows as a table, as CSV or as JSON."""

from __future__ import annotations

import csv
import io
import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .rows import Row

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


class Tabular(Protocol):
    """A row that has its values by name."""

    def as_dict(self) -> dict[str, Any]:
        """All values."""
        ...


def as_json(header: dict[str, Any], rows: Sequence[Tabular]) -> str:
    """{"header": {...}, "rows": [...]}."""
    return json.dumps({"header": header, "rows": [row.as_dict() for row in rows]}, indent=2)


def as_csv(header: dict[str, Any], rows: Sequence[Tabular], columns: Sequence[str]) -> str:
    """The header as comments, then these columns; a value that is not there is empty."""
    out = io.StringIO()
    for key, value in header.items():
        out.write(f"# {key}: {value}\n")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        values = row.as_dict()
        writer.writerow("" if values[name] is None else values[name] for name in columns)
    return out.getvalue().rstrip("\n")


@dataclass(slots=True)
class Report:
    """Everything a run found."""

    header: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        """Wrong bytes of all rows."""
        return sum(row.wrong for row in self.rows)

    def render(self, kind: str) -> str:
        """As "table", "csv" or "json"; ends without a line's end."""
        return {"table": self._table, "csv": self._csv, "json": self._json}[kind]()

    def _json(self) -> str:
        return as_json(self.header, self.rows)

    def _csv(self) -> str:
        return as_csv(self.header, self.rows, _CSV_COLUMNS)

    def _table(self) -> str:
        lines = [f"{key}: {value}" for key, value in self.header.items()]
        for workload, rows in itertools.groupby(self.rows, key=lambda row: row.workload):
            lines += ["", workload, *_of_one_workload(list(rows))]
        return "\n".join(lines)


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
