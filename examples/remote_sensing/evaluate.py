# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""How good matches, maps and boxes are, of the model, of its ablations and of the classical methods."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np

from .refine import INLIER, estimate
from .scenes import warp
from .world import TILE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from .scenes import Doubles
    from .tiles import Floats

CORNERS = np.array([[0, 0], [TILE - 1, 0], [TILE - 1, TILE - 1], [0, TILE - 1]], np.float64)
SOLVED = 3.0  # pixels of mean corner error
NOWHERE = 999.0  # the corner error where no map was found


@dataclass
class MatchScore:
    """Of one method over many pairs."""

    matches: list[int] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    kept_right: list[float] = field(default_factory=list)
    corner: list[float] = field(default_factory=list)

    def add(self, source: Floats, target: Floats, truth: Doubles) -> None:
        """Count one pair's matches, and those that RANSAC keeps."""
        affine, inliers = estimate(source, target)
        right = np.linalg.norm(warp(source, truth) - target, axis=1) < INLIER if len(source) else np.zeros(0, bool)
        self.matches.append(len(source))
        self.right.append(int(right.sum()))
        self.kept_right.append(float(right[inliers].mean()) if inliers.any() else 0.0)
        self.corner.append(NOWHERE if affine is None else corner_error(affine, truth))

    @property
    def precision(self) -> float:
        """Of all pairs' matches together, before the last RANSAC: the share within 3 pixels of the truth."""
        return sum(self.right) / max(1, sum(self.matches))

    @property
    def solved(self) -> float:
        """The share of pairs whose corners are less than 3 pixels off."""
        return float(np.mean(np.array(self.corner) < SOLVED))

    def line(self) -> str:
        """For a table."""
        return (
            f"{np.mean(self.matches):7.1f} {self.precision:9.3f} {np.mean(self.kept_right):12.3f} "
            f"{np.median(self.corner):10.2f} {100 * self.solved:7.1f} %"
        )


MATCH_HEADER = "matches precision after RANSAC corner, px  solved"


def corner_error(affine: Doubles, truth: Doubles) -> float:
    """Mean distance, in pixels, of where the tile's corners go and where they should."""
    return float(np.linalg.norm(warp(CORNERS, affine) - warp(CORNERS, truth), axis=1).mean())


def overlap(one: npt.ArrayLike, two: npt.ArrayLike) -> float:
    """Intersection over union of two oriented boxes (x, y, length, width, angle in radians)."""
    boxes = [np.asarray(box, np.float64) for box in (one, two)]
    if np.hypot(*(boxes[0][:2] - boxes[1][:2])) > (boxes[0][2] + boxes[1][2]) / 2:
        return 0.0
    turned = [((box[0], box[1]), (box[2], box[3]), np.degrees(box[4])) for box in boxes]
    kind, points = cv2.rotatedRectangleIntersection(*turned)
    if kind == cv2.INTERSECT_NONE or points is None:
        return 0.0
    shared = cv2.contourArea(cv2.convexHull(points))
    return float(shared / (boxes[0][2] * boxes[0][3] + boxes[1][2] * boxes[1][3] - shared))


def average_precision(found: Sequence[tuple[Floats, Floats]], truth: Sequence[Floats], least: float = 0.5) -> float:
    """AP of oriented boxes: the area under the precision envelope over all recalls.

    Args:
        found: For each image boxes (n, 5) and how sure they are (n,).
        truth: For each image the boxes that are there.
        least: Overlap from which a box counts as found; each may be found once.
    """
    entries = []  # how sure, and whether right
    for (boxes, sure), there in zip(found, truth, strict=True):
        free = np.ones(len(there), bool)
        for box, how_sure in sorted(zip(boxes, sure, strict=True), key=lambda pair: -float(pair[1])):
            overlaps = np.array([overlap(box, other) if free[k] else 0.0 for k, other in enumerate(there)])
            hit = len(overlaps) > 0 and overlaps.max() >= least
            if hit:
                free[overlaps.argmax()] = False
            entries.append((float(how_sure), hit))
    total = sum(map(len, truth))
    if not entries or total == 0:
        return 0.0
    entries.sort(key=lambda entry: -entry[0])
    right = np.cumsum([hit for _, hit in entries])
    recall, precision = right / total, right / np.arange(1, len(entries) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(np.r_[0, recall]) * envelope))
