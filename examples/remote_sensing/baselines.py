# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What needs no training: SIFT with a ratio test, and two methods made for images of different sensors.

The strong ones go by the orientation of edges without its sign: bright beside dark is the same edge as dark beside
bright. `edge_keypoints` compares histograms of it at SIFT's keypoints; `edge_templates` looks for the best place of a
whole template of oriented edge channels around where it should be, after the idea of CFOG (channel features of oriented
gradients), so that no keypoint must be found twice. All go by the same composites, the same search radius and RANSAC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from .edges import STEP, edge_channels
from .features import SENSORS, composite, find_keypoints, images_of
from .scenes import SEARCH
from .world import TILE

if TYPE_CHECKING:
    from collections.abc import Callable

    from .features import Bytes, Floats
    from .scenes import Scene

    Pairs = tuple[Floats, Floats]

RATIO = 0.8  # Lowe's, for SIFT
RATIO_EDGES = 0.95  # descriptors across sensors lie closer together
TEMPLATE = 80  # pixels a side
TEMPLATES = 96  # keypoints that get one


def keypoints_of(scene: Scene) -> list[tuple[Bytes, Floats, Floats]]:
    """Each sensor's composite, keypoints and SIFT descriptors."""
    images = [composite(images_of(scene, sensor), sensor) for sensor in SENSORS]
    return [(image, *find_keypoints(image)) for image in images]


def sift(scene: Scene) -> Pairs:
    """SIFT's descriptors, nearest neighbours that pass the ratio test, and each other's best."""
    (_, p, one), (_, q, two) = keypoints_of(scene)
    return nearest(p, _root(one), q, _root(two), RATIO)


def _root(described: Floats) -> Floats:
    """RootSIFT, which is a little better."""
    return np.asarray(np.sqrt(described / (described.sum(1, keepdims=True) + 1e-6)), np.float32)


def nearest(p: Floats, one: Floats, q: Floats, two: Floats, ratio: float) -> Pairs:
    """Pairs that are each other's nearest within the search radius, and clearly nearer than the second."""
    if min(len(p), len(q)) < 2:
        return np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)
    apart = np.sqrt(np.maximum(2 - 2 * one @ two.T, 0))
    far = np.linalg.norm(p[:, None, :2] - q[None, :, :2], axis=2) >= SEARCH
    apart[far] = 9
    order = np.argsort(apart, 1)
    best = apart[np.arange(len(p)), order[:, 0]]
    kept = (best < 9) & (best < ratio * apart[np.arange(len(p)), order[:, 1]])
    kept &= apart.argmin(0)[order[:, 0]] == np.arange(len(p))
    return p[kept, :2], q[order[kept, 0], :2]


def edge_keypoints(scene: Scene) -> Pairs:
    """Histograms of edge orientations, in 6 x 6 cells of 10 pixels around SIFT's keypoints."""
    (first, p, _), (second, q, _) = keypoints_of(scene)
    described = [_histograms(edge_channels(image), points) for image, points in ((first, p), (second, q))]
    return nearest(p, described[0], q, described[1], RATIO_EDGES)


def _histograms(channels: Floats, points: Floats) -> Floats:
    steps = (np.arange(6) - 2.5) * 10 / STEP
    columns, rows = np.meshgrid(steps, steps)
    x = ((points[:, :1] + 0.5) / STEP - 0.5 + columns.ravel()).astype(np.float32)
    y = ((points[:, 1:2] + 0.5) / STEP - 0.5 + rows.ravel()).astype(np.float32)
    cells = [cv2.remap(cv2.GaussianBlur(one, (0, 0), 2), x, y, cv2.INTER_LINEAR) for one in channels]
    flat = np.stack(cells, 2).reshape(len(points), -1)
    flat = np.minimum(flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6), 0.2)
    return np.asarray(flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6), np.float32)


def edge_templates(scene: Scene) -> Pairs:
    """The best place of a template of edge channels around each of the best optical keypoints."""
    (first, p, _), (second, _, _) = keypoints_of(scene)
    one, two = edge_channels(first), edge_channels(second)
    half, reach = TEMPLATE // 2 // STEP, int(SEARCH) // STEP
    source, target, quality = [], [], []
    for x, y in p[:TEMPLATES, :2]:
        column, row = round(x / STEP), round(y / STEP)
        top, left = max(0, row - half), max(0, column - half)
        bottom, right = min(TILE // STEP, row + half), min(TILE // STEP, column + half)
        rows, columns = slice(max(0, top - reach), bottom + reach), slice(max(0, left - reach), right + reach)
        score = _correlation(one[:, top:bottom, left:right], two[:, rows, columns])
        _, best, _, (at_x, at_y) = cv2.minMaxLoc(score)
        ratio = _second(score, at_x, at_y) / max(best, 1e-6)
        moved = np.array([columns.start + at_x - left, rows.start + at_y - top], np.float32)
        source.append((x, y))
        target.append((x + moved[0] * STEP, y + moved[1] * STEP))
        quality.append(ratio)
    kept = np.array(quality) < RATIO_EDGES
    return np.array(source, np.float32)[kept], np.array(target, np.float32)[kept]


def _correlation(template: Floats, image: Floats) -> Floats:
    """Normalised correlation of all channels at once."""
    shape = image.shape[1] - template.shape[1] + 1, image.shape[2] - template.shape[2] + 1
    total, energy = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for channel, large in zip(template, image, strict=True):
        small = channel - channel.mean()
        total += cv2.matchTemplate(large, small, cv2.TM_CCORR)
        energy += cv2.matchTemplate(large * large, np.ones_like(small), cv2.TM_CCORR)
    return np.asarray(total / np.sqrt(np.maximum(energy, 1e-3) * float((template**2).sum())), np.float32)


def _second(score: Floats, x: int, y: int) -> float:
    """The best score that is not around the best place."""
    others = score.copy()
    others[max(0, y - 5) : y + 6, max(0, x - 5) : x + 6] = -1
    return float(others.max())


METHODS: dict[str, Callable[[Scene], Pairs]] = {
    "sift": sift,
    "edges at keypoints": edge_keypoints,
    "edge templates": edge_templates,
}

__all__ = ["METHODS", "edge_keypoints", "edge_templates", "sift"]
