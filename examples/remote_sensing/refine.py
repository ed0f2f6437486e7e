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
UNSEEN = -1.0  # the score of a shift at which too little is seen
LEAST_ENERGY = 1e-3  # of a window; below it nothing is there


class Refined(NamedTuple):
    """What a search around a map found.

    Attributes:
        source: (n, 2), pixels of the optical image.
        target: (n, 2), pixels of the radar image.
        sure: (n,), the correlation, at most 1.
        affine: (2, 3): the map that most of them agree on.
        inliers: (n,): which do.
    """

    source: Floats
    target: Floats
    sure: Floats
    affine: Doubles
    inliers: npt.NDArray[np.bool_]


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


def refine(optical: Floats, radar: Floats, affine: Doubles) -> Refined | None:
    """Matches of a grid of points, sought around where a map says they are, and the map that they give.

    Args:
        optical: (orientations, rows, columns): its edge channels.
        radar: The radar image's.
        affine: (2, 3), from pixels of the optical image to those of the radar image.

    Returns:
        What the last search found of which enough agree on a map; None where no search did.
    """
    one, two = torch.from_numpy(optical), torch.from_numpy(radar)
    places = np.linspace(MARGIN, TILE - 1 - MARGIN, SIDE)
    cells = [(round((x + 0.5) / STEP - 0.5), round((y + 0.5) / STEP - 0.5)) for y in places for x in places]
    middles = (np.array(cells) + 0.5) * STEP - 0.5
    last: Refined | None = None
    for reach, half in ROUNDS:
        moved = moved_map(two, affine, TILE)
        seen = moved_map(torch.ones_like(two[:1]), affine, TILE)
        kept, apart, sure = _peaks(_scores(one, moved, seen, cells, (reach // STEP, half // STEP)))
        source = middles[kept].astype(np.float32)
        target = warp(source + apart * STEP, affine).astype(np.float32)
        found, inliers = estimate(source, target)
        if found is None:
            break
        affine, last = found, Refined(source, target, sure, found, inliers)
    return last


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
    seen_area = _correlation(known, support)
    sums = _correlation(window, support, together=False)
    squares = _correlation(window.square().sum(1, keepdim=True), support)
    # Of what lies in the window, channel by channel, without its mean: as the template is.
    energy = (squares - sums.square().sum(1) / seen_area.clamp(min=1)).clamp(min=LEAST_ENERGY)
    norm = template.square().sum((1, 2, 3)).clamp(min=LEAST_ENERGY)
    scores = _correlation(window, template) / torch.sqrt(energy * norm[:, None, None])
    return scores.masked_fill(seen_area / area[:, None, None] < COVERED, UNSEEN)


def _around(grid: Tensor, cells: list[tuple[int, int]], half: int) -> Tensor:
    """(cells, channels, 2 half + 1, 2 half + 1) of a grid, with nothing outside of it."""
    wide = functional.pad(grid, (half, half, half, half))
    return torch.stack([wide[:, row : row + 2 * half + 1, column : column + 2 * half + 1] for column, row in cells])


def _correlation(window: Tensor, template: Tensor, *, together: bool = True) -> Tensor:
    """At every shift at which the template lies inside the window; of all channels together, or of each."""
    size = window.shape[-1]
    shifts = size - template.shape[-1] + 1
    product = torch.fft.rfft2(window) * torch.fft.rfft2(template, s=(size, size)).conj()
    found = torch.fft.irfft2(product.sum(1) if together else product, s=(size, size))
    return found[..., :shifts, :shifts]


def _peaks(scores: Tensor) -> tuple[npt.NDArray[np.bool_], Floats, Floats]:
    """Which cells have a best shift that is not at the border; of those how far it is, in cells, and its score."""
    count, side, _ = scores.shape
    best, place = scores.flatten(1).max(1)
    row, column = place // side, place % side
    kept = (row > 0) & (row < side - 1) & (column > 0) & (column < side - 1) & (best > 0)
    row, column, number = row.clamp(1, side - 2), column.clamp(1, side - 2), torch.arange(count)
    left, right, above, below = (
        scores[number, row + down, column + aside] for down, aside in ((0, -1), (0, 1), (-1, 0), (1, 0))
    )
    # Beside what is not seen the highest place is not known.
    kept &= torch.stack([left, right, above, below]).amin(0) > UNSEEN
    apart = torch.stack([column + _between(left, best, right), row + _between(above, best, below)], 1) - side // 2
    return kept.numpy(), apart[kept].numpy(), best[kept].numpy()


def _between(before: Tensor, middle: Tensor, after: Tensor) -> Tensor:
    """Where the parabola through three neighbours is highest, from the middle one."""
    bend = before - 2 * middle + after
    return torch.where(bend < 0, (before - after) / (2 * bend), torch.zeros_like(bend)).clamp(-0.5, 0.5)
