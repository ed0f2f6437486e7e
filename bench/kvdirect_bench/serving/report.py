# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A run's header and rows as a table, as CSV or as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kvdirect_bench.report import aligned, as_csv, as_json

if TYPE_CHECKING:
    from .rows import Row

_CSV_COLUMNS = (
    "name",
    "lane",
    "rounds",
    "requests",
    "ttft_ms",
    "ttft_p99_ms",
    "tpot_ms",
    "latency_ms",
    "wire_ms",
    "wire_share",
    "exposed_ms",
    "exposed_share",
    "wrong",
)
_TABLE_COLUMNS = (
    "contender",
    "lane",
    "requests",
    "TTFT ms",
    "p99",
    "ms/token",
    "latency ms",
    "wire ms",
    "wire %",
    "exposed ms",
    "exposed %",
    "wrong",
)
_RATIOS = ("ttft", "tpot", "latency", "wire")


@dataclass(slots=True)
class Report:
    """Everything a run found."""

    header: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    def render(self, kind: str) -> str:
        """As "table", "csv" or "json"; ends without a line's end."""
        return {"table": self._table, "csv": self._csv, "json": self._json}[kind]()

    def _json(self) -> str:
        return as_json(self.header, self.rows)

    def _csv(self) -> str:
        return as_csv(self.header, self.rows, _CSV_COLUMNS)

    def _table(self) -> str:
        lines = [f"{key}: {value}" for key, value in self.header.items()]
        lines += ["", *aligned([_TABLE_COLUMNS, *(_cells(row) for row in self.rows)], left=2)]
        ratios = [
            (row.name, other, *(str(found[name]) if name in found else "" for name in _RATIOS))
            for row in self.rows
            for other, found in row.ratios.items()
        ]
        if ratios:
            titles = ("times as fast", "as", "TTFT [5-95 % of rounds]", "per token", "latency", "wire")
            lines += ["", *aligned([titles, *ratios], left=0)]
        return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.name,
        row.lane,
        str(row.requests),
        f"{row.ttft_ms:.1f}",
        f"{row.ttft_p99_ms:.1f}",
        f"{row.tpot_ms:.2f}",
        f"{row.latency_ms:.1f}",
        "" if row.wire_ms is None else f"{row.wire_ms:.2f}",
        "" if row.wire_share is None else f"{row.wire_share * 100:.3f}",
        f"{row.exposed_ms:.2f}",
        f"{row.exposed_share * 100:.3f}",
        str(row.wrong),
    )
