# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A run as a picture, a bar for each engine and a group for each workload: HTML that needs nothing, or a PNG."""

from __future__ import annotations

import html
import importlib
import itertools
from typing import TYPE_CHECKING, Any

from .errors import BenchError, BenchUsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .report import Report
    from .rows import Row

_OURS, _THEIRS = "#1f6f8b", "#9aa5ab"
_INCHES = 0.35
_BAR, _GAP, _LABEL, _SCALE, _TAIL = 22, 8, 190, 520, 250
_STYLE = (
    "body{font:14px system-ui,sans-serif;margin:2em auto;max-width:62em;color:#222}"
    "h2{font-size:1.05em;margin:1.6em 0 .4em}svg text{font:13px system-ui,sans-serif;fill:#222}"
    "table{border-collapse:collapse;font-size:12px}td{padding:1px 10px 1px 0;vertical-align:top}"
    ".wrong{fill:#b00020;font-weight:bold}"
)


def check_plot(file: Path) -> None:
    """Fail early, not after minutes of measuring.

    Raises:
        BenchError: There is no such folder, or matplotlib is not installed.
    """
    if not file.absolute().parent.is_dir():
        raise BenchUsageError(f"--plot {file}: there is no such folder")
    if file.suffix == ".png":
        _matplotlib()


def draw(report: Report, file: Path) -> None:
    """Write the picture, as the file's name says."""
    if file.suffix == ".png":
        _draw_png(report, file)
    else:
        file.write_text(render_html(report))


def _groups(report: Report) -> list[tuple[str, list[Row]]]:
    return [(label, list(rows)) for label, rows in itertools.groupby(report.rows, key=lambda row: row.workload)]


def _colour(row: Row) -> str:
    return _OURS if row.engine.startswith("kvdirect") else _THEIRS


def _draw_png(report: Report, file: Path) -> None:
    plots, groups = _matplotlib(), _groups(report)
    heights = [len(rows) + 2 for _, rows in groups]
    figure, axes = plots.subplots(
        len(groups), 1, figsize=(9, _INCHES * sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for (label, rows), axis in zip(groups, axes[:, 0], strict=True):
        names, speeds = [row.name for row in rows], [row.gbps for row in rows]
        axis.bar_label(axis.barh(names, speeds, color=[_colour(row) for row in rows]), fmt="%.2f", padding=3)
        axis.margins(x=0.12)  # room for the labels
        axis.invert_yaxis()
        axis.set_title(label, fontsize=10)
        axis.set_xlabel("GB/s")
    figure.savefig(file)
    plots.close(figure)


def _matplotlib() -> Any:  # noqa: ANN401  (it may not be installed, so its types are not either)
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ImportError as error:
        told = f"--plot to .png needs matplotlib ({error}): pip install matplotlib, or plot to .html"
        raise BenchError(told) from error
    matplotlib.use("Agg")
    return importlib.import_module("matplotlib.pyplot")


def render_html(report: Report) -> str:
    """The whole file."""
    facts = "".join(
        f"<tr><td>{html.escape(key)}</td><td>{html.escape(str(value))}</td></tr>"
        for key, value in report.header.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>kvdirect bench</title>'
        f"<style>{_STYLE}</style></head><body><h1>Pulls, GB/s (more is better)</h1>"
        f"{''.join(_group(rows) for _, rows in _groups(report))}<h2>Run</h2><table>{facts}</table></body></html>\n"
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
    said = f"{row.gbps:.2f} GB/s, p50 {row.p50_us:.0f} us"
    if row.ratio_to_memcpy is not None:
        said += f", {row.ratio_to_memcpy:.2f} x memcpy"
    wrong = f' <tspan class="wrong">{row.wrong} wrong bytes</tspan>' if row.wrong else ""
    return (
        f'<text x="{_LABEL - 8}" y="{middle}" text-anchor="end">{html.escape(row.name)}</text>'
        f'<rect x="{_LABEL}" y="{top}" width="{length:.1f}" height="{_BAR}" fill="{_colour(row)}"/>'
        f'<text x="{_LABEL + length + 6:.1f}" y="{middle}">{html.escape(said)}{wrong}</text>'
    )
