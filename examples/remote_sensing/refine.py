# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Guided matching: with a first map known, points are sought again near where it says that they are.

The first map comes from keypoints that both sensors happened to find, which are few and pixels apart. A template of
oriented edges needs no keypoint in the other image, and where a first map has turned and stretched that image already,
a small search finds its place to less than a pixel. So a rough map becomes a good one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .edges import STEP
from .scenes import warp
from .ships import moved_map
from .world import TILE

if TYPE_CHECKING:
    import numpy.typing as npt

    from .scenes import Doubles
    from .tiles import Floats

INLIER = 3.0  # pixels
FEWEST = 6  # inliers without which no map is believed
# Pixels around where the map says, and half a template's side: a first map is off by some 20 pixels at most, the last
# but one by a few. By trial on scenes that are in no report.
ROUNDS = ((24, 40), (16, 40), (8, 40))
SIDE = 12  # points of the grid in a row
MARGIN = 16  # pixels of the image's border without a point
COVERED = 0.7  # of a template must be seen by the other sensor
AROUND = 1e-3  # energy below which nothing is there


class Refined(NamedTuple):
    """What a search around a map found.

    Attributes:
        source: (n, 2), pixels of the optical image.
        target: (n, 2), pixels of the radar image.
        sure: (n,), the correlation, at most 1.
        affine: That most of them agree on; the one that was given where too few agree.
    """

    source: Floats
    target: Floats
    sure: Floats
    affine: Doubles


def estimate(source: Floats, target: Floats) -> tuple[Doubles | None, npt.NDArray[np.bool_]]:
    """The affine map that most matches agree on, by RANSAC, and which do; None where fewer than FEWEST do."""
    nobody = np.zeros(len(source), bool)
    if len(source) < FEWEST:
        return None, nobody
    affine, inliers = cv2.estimateAffine2D(
        source.astype(np.float64),
        target.astype(np.float64),
        method=cv2.RANSAC,
        ransacReprojThreshold=INLIER,
        maxIters=10000,
        confidence=0.9999,
    )
    if affine is None or int(inliers.sum()) < FEWEST:
        return None, nobody
    return np.asarray(affine, np.float64), inliers.ravel().astype(bool)


def refine(optical: Floats, radar: Floats, affine: Doubles) -> Refined:
    """Matches of a grid of points, sought around where a map says they are, and the map that they give.

    Args:
        optical: (orientations, rows, columns): its edge channels.
        radar: The radar image's.
        affine: (2, 3), from pixels of the optical image to those of the radar image.
    """
    one, two = torch.from_numpy(optical), torch.from_numpy(radar)
    places = np.linspace(MARGIN, TILE - 1 - MARGIN, SIDE)
    cells = [(round((x + 0.5) / STEP - 0.5), round((y + 0.5) / STEP - 0.5)) for y in places for x in places]
    source = target = np.zeros((0, 2), np.float32)
    sure = np.zeros(0, np.float32)
    for reach, half in ROUNDS:
        moved = moved_map(two, affine, TILE)
        seen = moved_map(torch.ones_like(two[:1]), affine, TILE)
        scores = _scores(one, moved, seen, cells, (reach // STEP, half // STEP))
        kept, apart, best = _peaks(scores)
        source = ((np.array(cells)[kept] + 0.5) * STEP - 0.5).astype(np.float32)
        target = warp(source + apart * STEP, affine).astype(np.float32)
        sure = best
        found, _ = estimate(source, target)
        if found is None:
            break
        affine = found
    return Refined(source, target, sure, affine)


def _scores(one: Tensor, other: Tensor, seen: Tensor, cells: list[tuple[int, int]], size: tuple[int, int]) -> Tensor:
    """Normalised correlation of a template around each cell, at each shift: (cells, 2 reach + 1, 2 reach + 1).

    Args:
        one: (channels, rows, columns), where templates are taken from.
        other: The same, where they are sought.
        seen: (1, rows, columns): 1 where `other` is known.
        cells: Column and row.
        size: Reach and half a template's side, in cells.
    """
    reach, half = size
    template = _around(one, cells, half)
    support = _around(torch.ones_like(seen), cells, half)
    area = support.sum((1, 2, 3))
    template = (template - (template.sum((2, 3)) / area[:, None])[..., None, None]) * support
    window, known = _around(other, cells, half + reach), _around(seen, cells, half + reach)
    energy = _correlation(window.square().sum(1, keepdim=True), support).clamp(min=AROUND)
    norm = template.square().sum((1, 2, 3)).clamp(min=AROUND)
    scores = _correlation(window, template) / torch.sqrt(energy * norm[:, None, None])
    return scores.masked_fill(_correlation(known, support) / area[:, None, None] < COVERED, -1)


def _around(grid: Tensor, cells: list[tuple[int, int]], half: int) -> Tensor:
    """(cells, channels, 2 half + 1, 2 half + 1) of a grid, with nothing outside of it."""
    wide = functional.pad(grid, (half, half, half, half))
    return torch.stack([wide[:, row : row + 2 * half + 1, column : column + 2 * half + 1] for column, row in cells])


def _correlation(window: Tensor, template: Tensor) -> Tensor:
    """Of all channels together, at every shift at which the template lies inside the window."""
    size = window.shape[-1]
    shifts = size - template.shape[-1] + 1
    product = (torch.fft.rfft2(window) * torch.fft.rfft2(template, s=(size, size)).conj()).sum(1)
    return torch.fft.irfft2(product, s=(size, size))[:, :shifts, :shifts]


def _peaks(scores: Tensor) -> tuple[npt.NDArray[np.bool_], Floats, Floats]:
    """Which cells have a best shift that is not at the border; of those how far it is, in cells, and its score."""
    count, side, _ = scores.shape
    best, place = scores.flatten(1).max(1)
    row, column = place // side, place % side
    kept = (row > 0) & (row < side - 1) & (column > 0) & (column < side - 1) & (best > 0)
    row, column, number = row.clamp(1, side - 2), column.clamp(1, side - 2), torch.arange(count)
    middle = scores[number, row, column]
    x = column + _between(scores[number, row, column - 1], middle, scores[number, row, column + 1])
    y = row + _between(scores[number, row - 1, column], middle, scores[number, row + 1, column])
    apart = torch.stack([x, y], 1) - side // 2
    return kept.numpy(), apart[kept].numpy(), best[kept].numpy()


def _between(before: Tensor, middle: Tensor, after: Tensor) -> Tensor:
    """Where the parabola through three neighbours is highest, from the middle one."""
    bend = before - 2 * middle + after
    return torch.where(bend < 0, (before - after) / (2 * bend), torch.zeros_like(bend)).clamp(-0.5, 0.5)
