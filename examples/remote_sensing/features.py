# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""SIFT's keypoints, found in either sensor's images without a look at the other's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from .scenes import Scene

    Floats = npt.NDArray[np.float32]
    Bytes = npt.NDArray[np.uint8]

SENSORS = ("optical", "radar")
KEYPOINTS = 256  # of a tile, at most
CELL = 16  # pixels: the best keypoint of each cell comes before the second best of any


def images_of(scene: Scene, sensor: str) -> Floats:
    """What a sensor's worker gets: (2, channels, rows, columns), both dates."""
    return np.ascontiguousarray(scene.optical.transpose(0, 3, 1, 2)) if sensor == "optical" else scene.radar[:, None]


def composite(images: Floats, sensor: str, dates: int = 2) -> Bytes:
    """One grey image to find keypoints in.

    The darker of two optical dates has few clouds; the mean of two radar dates, smoothed, has less speckle.

    Args:
        images: As `images_of` makes them.
        sensor: "optical" or "radar".
        dates: How many of them are used.
    """
    grey = images[:dates].mean(1)
    one = grey.min(0) if sensor == "optical" else cv2.GaussianBlur(grey.mean(0), (0, 0), 1.6)
    low, high = np.quantile(one, (0.005, 0.995))
    return np.asarray(np.clip((one - low) / max(high - low, 1e-6), 0, 1) * 255, np.uint8)


def find_keypoints(image: Bytes, most: int = KEYPOINTS) -> tuple[Floats, Floats]:
    """Keypoints, the best first, and SIFT's descriptors of them.

    Returns:
        (n, 3) float32: x, y, size; and (n, 128) float32. n is what there is, `most` at most.
    """
    found, described = cv2.SIFT_create(contrastThreshold=0.015, edgeThreshold=20).detectAndCompute(image, None)
    if not found:
        return np.zeros((0, 3), np.float32), np.zeros((0, 128), np.float32)
    points = np.array([(*point.pt, point.size) for point in found], np.float32)
    strength = np.array([point.response for point in found])
    order = np.lexsort((points[:, 1], points[:, 0], -strength))  # equal ones have an order too
    _, first = np.unique(np.round(points[order, :2]), axis=0, return_index=True)  # a place counts once
    order = order[np.sort(first)]
    cells = points[order, :2].astype(int) // CELL
    rank = _rank_in_cell(cells[:, 0] * 4096 + cells[:, 1])
    order = order[np.argsort(rank, kind="stable")][:most]
    return points[order], np.asarray(described[order], np.float32)


def _rank_in_cell(cells: npt.NDArray[np.int_]) -> npt.NDArray[np.int_]:
    """How many of the same cell come before each."""
    sorted_by_cell = np.argsort(cells, kind="stable")
    starts = np.r_[True, np.diff(cells[sorted_by_cell]) != 0]
    place = np.arange(len(cells))
    rank = np.empty(len(cells), int)
    rank[sorted_by_cell] = place - np.maximum.accumulate(np.where(starts, place, 0))
    return rank
