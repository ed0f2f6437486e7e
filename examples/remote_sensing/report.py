# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The evaluation: three processes on scenes that training has not seen, and beside them everything to compare with."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .baselines import METHODS
from .evaluate import MATCH_HEADER, MatchScore, average_precision
from .extract import Extractor
from .features import SENSORS, images_of
from .fuse import Fused, Fusion
from .model import ALL, Parts
from .pictures import draw_pair, plot_time
from .refine import estimate, refine
from .scenes import LOOKS, RADIOMETRIES, Scene, make_scene
from .sources import TilePairs
from .tiles import channels_of
from .train import load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .tiles import Extracted, Floats

HELD_OUT = 5_000_000  # the first seed
PICTURES = 4
# What is printed beside a name where matches of keypoints are judged by themselves, without the second search.
KEYPOINTS_ALONE = ", keypoints alone"
REFINED = ", refined"  # beside a classical method's name where the same second search comes after it
STRONG = tuple(name for name in METHODS if name != "sift")
ABLATIONS = {
    "no temporal": Parts(temporal=False),
    "no fusion": Parts(fusion=False),
    "cosine": Parts(classify=False),
}


@dataclass
class Boxes:
    """Of one detector over all scenes."""

    found: list[tuple[Floats, Floats]] = field(default_factory=list)
    truth: list[Floats] = field(default_factory=list)

    def add(self, found: tuple[Floats, Floats], truth: Floats) -> None:
        """One scene's."""
        self.found.append(found)
        self.truth.append(truth)

    @property
    def ap50(self) -> float:
        """In percent."""
        return 100 * average_precision(self.found, self.truth)


@dataclass
class Report:
    """What came out.

    Attributes:
        pairs: Scenes.
        precision: Share of matches within 3 pixels of the truth, by method; of all that it tells.
        solved: Share of pairs with a corner error below 3 pixels, by method.
        ap50: Of oriented boxes in percent, by what they were found in.
        equal: Pairs for which one process and three told the same, bit for bit.
        moved: Seconds in which bytes were moved, of all pulls together.
        seconds: For all pairs, by three processes.
        mebibytes: That were pulled.
    """

    pairs: int
    precision: dict[str, float]
    solved: dict[str, float]
    ap50: dict[str, float]
    equal: int
    moved: float
    seconds: float
    mebibytes: float

    def bars(self) -> dict[str, bool]:
        """What this example set out to reach, and whether it did."""
        best = max(self.ap50[sensor] for sensor in SENSORS)
        return {
            "match precision at 3 px is 0.7 or more": self.precision["model"] >= 0.7,
            "corner error below 3 px on 80 % of the pairs or more": self.solved["model"] >= 0.8,
            "more precise than both strong baselines": all(
                self.precision["model"] > self.precision[name] for name in STRONG
            ),
            "more pairs solved than by either strong baseline": all(
                self.solved["model"] > self.solved[name] for name in STRONG
            ),
            "more pairs solved than by either with the same second search": all(
                self.solved["model"] > self.solved[name + REFINED] for name in STRONG
            ),
            "AP50 of both sensors 5 points above the better one's": self.ap50["fused"] >= best + 5,
            "one process and three tell the same, bit for bit": self.equal == self.pairs,
        }


def evaluate(path: Path, pairs: int, out: Path, say: Callable[[str], None], first: int = HELD_OUT) -> Report:
    """Judge a model on held-out scenes, and write tables, pictures and a JSON file to `out`."""
    model = load(path)
    tiles = range(first, first + pairs)
    scenes = [make_scene(tile, "held-out") for tile in tiles]
    ours = ("model", *ABLATIONS)
    alone = tuple(name + KEYPOINTS_ALONE for name in ours)
    scores = {name: MatchScore() for name in (*ours, *alone, *METHODS, *(name + REFINED for name in STRONG))}
    boxes = {name: Boxes() for name in ("fused", *SENSORS, "fused by the true map", "fused, no temporal")}
    equal = 0
    results, moved, seconds, volume = _by_three_processes(path, tiles, out)
    for k, (scene, fused) in enumerate(zip(scenes, results, strict=True)):
        both = {
            on: [Extractor(model, s, on).extract(images_of(scene, s)) for s in SENSORS]
            for on in (ALL, ABLATIONS["no temporal"])
        }
        equal += fused.equal(Fusion(model).fuse(both[ALL][0], both[ALL][1]))
        _add(fused, scene, "model", scores)
        _count(fused, scene, boxes)
        boxes["fused by the true map"].add(Fusion(model).ships(both[ALL][0], both[ALL][1], scene.affine), scene.boxes)
        for name, on in ABLATIONS.items():
            told = Fusion(model, on).fuse(*both[on if not on.temporal else ALL])
            _add(told, scene, name, scores)
            if not on.temporal:
                boxes["fused, no temporal"].add((told.boxes, told.box_sure), scene.boxes)
        for name, method in METHODS.items():
            source, target = method(scene)
            scores[name].add(source, target, scene.affine)
            if name in STRONG:
                scores[name + REFINED].add(*_refined(source, target, both[ALL]), scene.affine)
        if k < PICTURES:
            draw_pair(scene, fused, out / f"pair-{k}.png")
        if (k + 1) % 10 == 0:
            say(f"{k + 1} of {pairs} pairs judged")
    report = Report(
        pairs,
        {name: score.precision for name, score in scores.items()},
        {name: score.solved for name, score in scores.items()},
        {name: group.ap50 for name, group in boxes.items()},
        equal,
        moved,
        seconds,
        volume / 2**20,
    )
    for line in _lines(report, scores, scenes):
        say(line)
    (out / "report.json").write_text(json.dumps(asdict(report), indent=1) + "\n")
    return report


def _by_three_processes(path: Path, tiles: range, out: Path) -> tuple[list[Fused], float, float, int]:
    """Every tile's result; seconds that bytes took, seconds of all, bytes."""
    fusion = Fusion(load(path))
    results: list[Fused] = []
    spans: dict[str, list[tuple[float, float]]] = {"fusing": [], **{sensor: [] for sensor in SENSORS}}
    moved, volume = 0.0, 0
    with TilePairs(path) as source:
        started = time.monotonic()
        for pair in source.pairs(tiles, "held-out"):
            begun = time.monotonic()
            results.append(fusion.fuse(*(one.features for one in pair)))
            spans["fusing"].append((begun, time.monotonic()))
            for sensor, one in zip(SENSORS, pair, strict=True):
                spans[sensor].append((one.asked, one.landed))
                moved, volume = moved + one.moved, volume + one.bytes
        seconds = time.monotonic() - started
    shown = {"fusing" if name == "fusing" else f"pulls of {name}": row[:8] for name, row in spans.items()}
    plot_time(shown, out / "time.png")
    return results, moved, seconds, volume


def _refined(source: Floats, target: Floats, features: list[Extracted]) -> tuple[Floats, Floats]:
    """What the second search makes of another method's matches."""
    affine, _ = estimate(source, target)
    if affine is None:
        return source, target
    optical, radar = (channels_of(one.edges) for one in features)
    found = refine(optical, radar, affine)
    return (source, target) if found is None else (found.source, found.target)


def _add(fused: Fused, scene: Scene, name: str, scores: dict[str, MatchScore]) -> None:
    scores[name].add(fused.source, fused.target, scene.affine)
    scores[name + KEYPOINTS_ALONE].add(*fused.first, scene.affine)


def _count(fused: Fused, scene: Scene, boxes: dict[str, Boxes]) -> None:
    boxes["fused"].add((fused.boxes, fused.box_sure), scene.boxes)
    for sensor, told, truth in zip(SENSORS, fused.alone, (scene.boxes, scene.radar_boxes), strict=True):
        boxes[sensor].add(told, truth)


def _lines(report: Report, scores: dict[str, MatchScore], scenes: list[Scene]) -> list[str]:
    """The tables."""
    lines = [f"{report.pairs} pairs of held-out seeds, textures and heights", f"{'':29}{MATCH_HEADER}"]
    lines += [f"{name:29}{score.line()}" for name, score in scores.items()]
    solved = np.array(scores["model"].corner) < 3
    groups = {f"{looks} looks": [scene.looks == looks for scene in scenes] for looks in LOOKS}
    groups |= {name: [scene.radiometry == name for scene in scenes] for name in RADIOMETRIES}
    groups["cloud on a fifth or more"] = [scene.cloud >= 0.2 for scene in scenes]
    shares = [f"{name} {solved[chosen].sum()}/{sum(chosen)}" for name, chosen in groups.items()]
    lines += ["pairs that the model solves: " + ", ".join(shares)]
    lines += ["AP50 of ships: " + ", ".join(f"{name} {value:.1f}" for name, value in report.ap50.items())]
    each, moved = report.seconds / report.pairs, report.moved / report.pairs
    lines.append(
        f"three processes: {each:.2f} s a pair; {report.mebibytes / report.pairs:.1f} MiB of it pulled in "
        f"{1e3 * moved:.1f} ms ({100 * moved / each:.2f} %); {report.equal} of {report.pairs} bit-equal to one process"
    )
    return lines + [f"{'reached' if reached else 'MISSED '}: {bar}" for bar, reached in report.bars().items()]
