# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A run as a picture, by matplotlib where that is installed."""

from __future__ import annotations

import importlib
import itertools
from typing import TYPE_CHECKING, Any

from .errors import BenchError

if TYPE_CHECKING:
    from pathlib import Path

    from .report import Report

_OURS, _THEIRS = "#1f6f8b", "#9aa5ab"
_INCHES = 0.35


def require() -> None:
    """Fail early, not after minutes of measuring.

    Raises:
        BenchError: matplotlib is not installed.
    """
    _matplotlib()


def draw_png(report: Report, file: Path) -> None:
    """Write the picture."""
    plots = _matplotlib()
    groups = [(label, list(rows)) for label, rows in itertools.groupby(report.rows, key=lambda row: row.workload)]
    heights = [len(rows) + 2 for _, rows in groups]
    figure, axes = plots.subplots(
        len(groups), 1, figsize=(9, _INCHES * sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for (label, rows), axis in zip(groups, axes[:, 0], strict=True):
        colours = [_OURS if row.engine.startswith("kvdirect") else _THEIRS for row in rows]
        bars = axis.barh([row.name for row in rows], [row.gbps for row in rows], color=colours)
        axis.bar_label(bars, fmt="%.2f", padding=3)
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
