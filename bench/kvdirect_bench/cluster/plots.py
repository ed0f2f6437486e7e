# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The comparison and the shifting trace as pictures."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kvdirect_bench.errors import BenchError

from .comparison import BASELINES, INSTANCES, ratios

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .comparison import Key
    from .points import Figures

_STYLES = {BASELINES[0]: "k--", BASELINES[1]: "k:", BASELINES[2]: "k-."}
_SLOWEST = 4.0


def matplotlib() -> Any:  # noqa: ANN401  (it may not be installed, so its types are not either)
    """Its pyplot, for files.

    Raises:
        BenchError: It is not installed.
    """
    try:
        importlib.import_module("matplotlib").use("Agg")
        return importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        raise BenchError(
            f"plots need matplotlib ({error}); `make simulate` makes an environment with it, --no-plots does without"
        ) from error


def draw_comparison(found: Mapping[Key, Figures], folder: Path) -> Path:
    """Mean latency over rate, a field for each kind of request."""
    plots = matplotlib()
    shapes = sorted({(key.prompt, key.outputs) for key in found})
    figure, axes = plots.subplots(
        2, -(-len(shapes) // 2), figsize=(4.2 * -(-len(shapes) // 2), 7), squeeze=False, layout="constrained"
    )
    for (prompt, outputs), axis in zip(shapes, axes.T.flat, strict=False):
        here = {key: one for key, one in found.items() if (key.prompt, key.outputs) == (prompt, outputs)}
        least = min(one.latency for one in here.values())
        for serves in (*BASELINES, *ratios()):
            line = sorted((key.rate, one.latency) for key, one in here.items() if key.serves == serves)
            axis.plot(*zip(*line, strict=True), _STYLES.get(serves, "o-"), label=serves, markersize=3)
        axis.set_ylim(0, _SLOWEST * least)
        axis.set_title(f"{prompt} in, {outputs} out", fontsize=10)
        axis.set_xlabel(f"requests a second, {INSTANCES} instances")
        axis.set_ylabel("mean latency, s")
    axes[0][0].legend(fontsize=8)
    return _save(plots, figure, folder / "comparison.png")


def draw_shift(trace: Mapping[str, Figures], seconds: float, folder: Path) -> Path:
    """Goodput of each phase, and how many instances prefill."""
    plots = matplotlib()
    figure, (bars, line) = plots.subplots(2, 1, figsize=(9, 7), layout="constrained")
    width = 0.8 / len(trace)
    for number, (name, one) in enumerate(trace.items()):
        bars.bar([phase + number * width for phase in range(len(one.good))], one.good, width, label=name)
    bars.set_xticks([phase + 0.4 for phase in range(len(next(iter(trace.values())).good))])
    bars.set_xticklabels([f"phase {phase + 1}" for phase in range(len(next(iter(trace.values())).good))])
    bars.set_ylabel("good requests a second")
    bars.legend(fontsize=7)
    changes = trace["elastic"].changes
    end = seconds * len(trace["elastic"].good)
    if changes:
        whens = [0.0, *(when for when, _, _ in changes), end]
        counts = [changes[0][2] + (-1 if changes[0][1] == "prefill" else 1), *(count for _, _, count in changes)]
        line.step(whens, [*counts, counts[-1]], where="post")
    line.set_xlabel("seconds")
    line.set_ylabel("instances that prefill")
    return _save(plots, figure, folder / "elastic.png")


def _save(plots: Any, figure: Any, file: Path) -> Path:  # noqa: ANN401
    figure.savefig(file, dpi=110)
    plots.close(figure)
    return file
