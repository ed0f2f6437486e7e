# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A run as one HTML file with its pictures in it: a bar for each engine, a group for each workload."""

from __future__ import annotations

import html
import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .report import Report
    from .rows import Row

_BAR, _GAP, _LABEL, _SCALE, _TAIL = 22, 8, 190, 520, 250
_OURS, _THEIRS = "#1f6f8b", "#9aa5ab"
_STYLE = (
    "body{font:14px system-ui,sans-serif;margin:2em auto;max-width:62em;color:#222}"
    "h2{font-size:1.05em;margin:1.6em 0 .4em}svg text{font:13px system-ui,sans-serif;fill:#222}"
    "table{border-collapse:collapse;font-size:12px}td{padding:1px 10px 1px 0;vertical-align:top}"
    ".wrong{fill:#b00020;font-weight:bold}"
)


def render_html(report: Report) -> str:
    """The whole file."""
    groups = [_group(list(rows)) for _, rows in itertools.groupby(report.rows, key=lambda row: row.workload)]
    facts = "".join(
        f"<tr><td>{html.escape(key)}</td><td>{html.escape(str(value))}</td></tr>"
        for key, value in report.header.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>kvdirect bench</title>'
        f"<style>{_STYLE}</style></head><body><h1>Pulls, GB/s (more is better)</h1>"
        f"{''.join(groups)}<h2>Run</h2><table>{facts}</table></body></html>\n"
    )


def _group(rows: Sequence[Row]) -> str:
    most = max(row.gbps for row in rows)
    height = len(rows) * (_BAR + _GAP) + _GAP
    bars = "".join(_bar(row, number, most) for number, row in enumerate(rows))
    width = _LABEL + _SCALE + _TAIL
    return (
        f"<h2>{html.escape(rows[0].workload)}</h2>"
        f'<svg role="img" viewBox="0 0 {width} {height}" width="{width}" height="{height}">{bars}</svg>'
    )


def _bar(row: Row, number: int, most: float) -> str:
    top = _GAP + number * (_BAR + _GAP)
    middle = top + _BAR - 6
    length = max(1.0, _SCALE * row.gbps / most)
    ours = row.engine.startswith("kvdirect")
    name = row.name if ours else row.engine
    said = f"{row.gbps:.2f} GB/s, p50 {row.p50_us:.0f} us"
    if row.ratio_to_memcpy is not None:
        said += f", {row.ratio_to_memcpy:.2f} x memcpy"
    wrong = f' <tspan class="wrong">{row.wrong} wrong bytes</tspan>' if row.wrong else ""
    return (
        f'<text x="{_LABEL - 8}" y="{middle}" text-anchor="end">{html.escape(name)}</text>'
        f'<rect x="{_LABEL}" y="{top}" width="{length:.1f}" height="{_BAR}" fill="{_OURS if ours else _THEIRS}"/>'
        f'<text x="{_LABEL + length + 6:.1f}" y="{middle}">{html.escape(said)}{wrong}</text>'
    )
