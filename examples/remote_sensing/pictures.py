# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Pictures of what was found: matches, one image laid on the other, boxes, losses, and who worked when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import matplotlib as mpl
import numpy as np

from .refine import INLIER
from .scenes import inverse, warp
from .world import TILE

mpl.use("Agg")  # no display is needed
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from .fuse import Fused
    from .scenes import Scene
    from .tiles import Floats

    Image = npt.NDArray[np.uint8]

GREEN, RED, WHITE, YELLOW = (80, 220, 80), (60, 60, 240), (255, 255, 255), (40, 220, 250)
ENLARGED = 2
MOST_LINES = 60
SURE_BOX = 0.3


def scene_images(scene: Scene) -> tuple[Image, Image]:
    """Both images of date 0, in colours, enlarged."""
    radar = cv2.cvtColor(np.clip(scene.radar[0], 0, 1), cv2.COLOR_GRAY2BGR)
    size = (ENLARGED * TILE, ENLARGED * TILE)
    both = [cv2.resize(image, size, interpolation=cv2.INTER_LINEAR) for image in (scene.optical[0], radar)]
    first, second = (np.asarray(np.clip(image, 0, 1) * 255, np.uint8) for image in both)
    return first, second


def draw_matches(scene: Scene, fused: Fused) -> Image:
    """The surest matches as lines, green where they are within 3 pixels of the truth, red where not."""
    picture = np.hstack(scene_images(scene))
    right = np.linalg.norm(warp(fused.source, scene.affine) - fused.target, axis=1) < INLIER
    surest = np.argsort(-fused.sure, kind="stable")[:MOST_LINES]
    for source, target, good in zip(fused.source[surest], fused.target[surest], right[surest], strict=True):
        start = np.round(source * ENLARGED).astype(int)
        end = np.round(target * ENLARGED + [ENLARGED * TILE, 0]).astype(int)
        cv2.line(picture, start.tolist(), end.tolist(), GREEN if good else RED, 1, cv2.LINE_AA)
        for point in (start, end):
            cv2.circle(picture, point.tolist(), 3, YELLOW, 1, cv2.LINE_AA)
    return picture


def draw_overlay(scene: Scene, fused: Fused) -> Image:
    """The radar image in every other square of the optical one, by the estimated map."""
    optical, radar = scene_images(scene)
    if fused.affine is None:
        return optical
    back = inverse(fused.affine)
    enlarged = np.column_stack([back[:, :2], back[:, 2] * ENLARGED])
    moved = cv2.warpAffine(radar, enlarged, (ENLARGED * TILE, ENLARGED * TILE))
    rows, columns = np.mgrid[: ENLARGED * TILE, : ENLARGED * TILE] // (32 * ENLARGED)
    return np.where(((rows + columns) % 2 == 0)[..., None], optical, moved)


def draw_boxes(scene: Scene, boxes: Floats, sure: Floats) -> Image:
    """Ships that are there in white, ships that were found in green, on the optical image."""
    picture = scene_images(scene)[0].copy()
    for group, colour, width in ((scene.boxes, WHITE, 3), (boxes[sure > SURE_BOX], GREEN, 2)):
        for x, y, length, breadth, angle in group.tolist():
            corners = cv2.boxPoints(((x, y), (length, breadth), float(np.degrees(angle)))) * ENLARGED
            cv2.polylines(picture, [np.round(corners).astype(np.int32)], True, colour, width, cv2.LINE_AA)
    return picture


def draw_pair(scene: Scene, fused: Fused, path: Path) -> None:
    """Matches above; below the overlay beside the boxes. Written as PNG."""
    below = np.hstack([draw_overlay(scene, fused), draw_boxes(scene, fused.boxes, fused.box_sure)])
    if not cv2.imwrite(str(path), np.vstack([draw_matches(scene, fused), below])):
        raise OSError(f"{path} could not be written")


def plot_losses(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Each part of the training's loss."""
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for name in [name for name in history[0] if name not in ("step", "seconds")]:
        axes.plot([one["step"] for one in history], [one[name] for one in history], label=name)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.legend(ncols=3)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def plot_time(spans: Mapping[str, Sequence[tuple[float, float]]], path: Path) -> None:
    """Who worked when: a row for each name, seconds from the first start on."""
    figure, axes = plt.subplots(figsize=(9, 2.5))
    start = min(begun for row in spans.values() for begun, _ in row)
    for place, row in enumerate(spans.values()):
        for k, (begun, ended) in enumerate(row):
            axes.barh(place, ended - begun, left=begun - start, height=0.6, color=f"C{k % 10}", edgecolor="white")
    axes.set_yticks(range(len(spans)), list(spans))
    axes.set(xlabel="seconds; one colour for each tile")
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
