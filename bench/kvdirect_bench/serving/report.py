# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A run's header and rows as a table, as CSV or as JSON."""

from __future__ import annotations

from kvdirect_bench.report import Document, aligned

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


class Report(Document[Row]):
    """Everything a run found."""

    columns = _CSV_COLUMNS

    def lines(self) -> list[str]:
        """A line for each contender, and the ratios of each to every other one."""
        lines = ["", *aligned([_TABLE_COLUMNS, *(_cells(row) for row in self.rows)], left=2)]
        ratios = [
            (row.name, other, *(str(found[name]) if name in found else "" for name in _RATIOS))
            for row in self.rows
            for other, found in row.ratios.items()
        ]
        if ratios:
            titles = ("times as fast", "as", "TTFT [5-95 % of rounds]", "per token", "latency", "wire")
            lines += ["", *aligned([titles, *ratios], left=0)]
        return lines


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
