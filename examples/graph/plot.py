# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Pictures of a run: the loss, and what was fetched while what was computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

COLOURS = {"sample": "#8da0cb", "fetch": "#fc8d62", "wait": "#b3b3b3", "compute": "#66c2a5", "push": "#e78ac3"}
SHOWN = 12  # steps of a time line


def plot_losses(out: Path, title: str, reports: Mapping[str, Mapping[str, Any]]) -> None:
    """The mean loss of 20 steps at a time, of each report by its name."""
    figure, axes = _figure(7, 4)
    for number, (name, report) in enumerate(reports.items()):
        losses = np.asarray(report["losses"])
        size = max(1, min(20, len(losses) // 10))
        means = losses[: len(losses) // size * size].reshape(-1, size).mean(axis=1)
        steps = (np.arange(len(means)) + 0.5) * size
        axes.plot(steps, means, label=name, linestyle="--" if number else "-", linewidth=2.5 - number)
    axes.set(title=title, xlabel="step", ylabel="loss")
    axes.legend()
    _save(figure, out)


def plot_timelines(out: Path, title: str, reports: Mapping[str, Mapping[str, Any]]) -> None:
    """What was done when in some steps of the last epoch, a band for each report."""
    figure, axes = _figure(11, 1.2 + 1.5 * len(reports))
    ticks: list[tuple[float, str]] = []
    used = set()
    for band, (name, report) in enumerate(reports.items()):
        kinds = [kind for kind in COLOURS if any(span[0] == kind for span in report["spans"])]
        shown = _some_steps(report["spans"])
        zero = min(begin for _, _, begin, _ in shown)
        for kind in kinds:
            bars = [(1e3 * (begin - zero), 1e3 * (end - begin)) for what, _, begin, end in shown if what == kind]
            height = band * (len(COLOURS) + 1) + list(COLOURS).index(kind)
            label = None if kind in used else kind
            axes.broken_barh(bars, (height, 0.9), facecolors=COLOURS[kind], edgecolor="white", label=label)
            used.add(kind)
        ticks.append((band * (len(COLOURS) + 1) + len(COLOURS) / 2, name))
    axes.set(title=title, xlabel="ms")
    axes.set_yticks([place for place, _ in ticks], [name for _, name in ticks])
    axes.invert_yaxis()
    figure.legend(ncols=len(COLOURS), loc="outside lower center")
    _save(figure, out)


def _some_steps(spans: Sequence[Sequence[Any]]) -> list[tuple[str, int, float, float]]:
    """All that was done while some steps from the middle of the last epoch were computed; steps count anew in each."""
    computed = [span for span in spans if span[0] == "compute"]
    last = computed[max(place for place, span in enumerate(computed) if span[1] == 0) :]
    shown = last[max(0, (len(last) - SHOWN) // 2) :][:SHOWN]
    first, end = shown[0][2] - (shown[-1][3] - shown[0][2]) / SHOWN, shown[-1][3]
    return [(kind, step, begin, stop) for kind, step, begin, stop in spans if begin >= first and stop <= end]


def _figure(width: float, height: float) -> tuple[Any, Any]:
    import matplotlib as mpl  # noqa: PLC0415  (only where pictures are made)

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    return figure, axes


def _save(figure: Any, out: Path) -> None:  # noqa: ANN401  (matplotlib's)
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure.savefig(out, dpi=120)
    plt.close(figure)
