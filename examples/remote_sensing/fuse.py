# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What two sensors' features tell together: matches, the map from one image to the other, and ships."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from .extract import Extractor
from .features import SENSORS, images_of
from .matching import choose
from .model import ALL, DESCRIPTOR, MAP_WIDTH, MatchingModel, Parts, tokens_of
from .refine import estimate, refine
from .scenes import SEARCH, make_scene
from .ships import boxes_of, moved_map
from .tiles import DATES, ROWS, Extracted, channels_of
from .world import TILE

if TYPE_CHECKING:
    import numpy.typing as npt

    from .scenes import Doubles
    from .tiles import Floats

SURE = 0.2  # least probability of a match that is kept; chosen, not tuned
SURE_COSINE = 0.03  # the same for cosines; see `choose`


class Fused(NamedTuple):
    """What is known of one tile.

    Attributes:
        source: (n, 2): matched points in the optical image.
        target: (n, 2): the same points in the radar image.
        sure: (n,).
        affine: (2, 3), or None where too few matches agree on one.
        inliers: (n,): matches that agree.
        first: Source and target of the matches of keypoints, by which the others were sought; the surest first.
        boxes: (ships, 5), in the optical image, out of both sensors; of the optical one alone where affine is None.
        box_sure: (ships,).
        alone: The same two of each sensor by itself, in its own image.
    """

    source: Floats
    target: Floats
    sure: Floats
    affine: Doubles | None
    inliers: npt.NDArray[np.bool_]
    first: tuple[Floats, Floats]
    boxes: Floats
    box_sure: Floats
    alone: tuple[tuple[Floats, Floats], tuple[Floats, Floats]]

    def equal(self, other: Fused) -> bool:
        """Bit for bit."""
        return _bytes(self) == _bytes(other)


def _bytes(value: object) -> object:
    if isinstance(value, tuple):
        return tuple(_bytes(part) for part in value)
    return (value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value


class Fusion:
    """The fusing half of a model."""

    def __init__(self, model: MatchingModel, on: Parts = ALL, least: float | None = None) -> None:
        """Use `model`; keep matches that are at least so sure, by default SURE."""
        self.model, self.on = model, on
        self.least = (SURE if on.classify else SURE_COSINE) if least is None else least

    def fuse(self, optical: Extracted, radar: Extracted) -> Fused:
        """Match a tile's keypoints, map one image to the other, and find ships in both."""
        with torch.inference_mode():
            source, target, sure = self.match(optical, radar)
            first = source, target
            affine, inliers = estimate(source, target)
            if affine is not None:
                found = refine(channels_of(optical.edges), channels_of(radar.edges), affine)
                if found is not None:
                    source, target, sure, affine, inliers = found
            seen = [self._seen(k, one) for k, one in enumerate((optical, radar))]
            alone = [self._boxes(self.model.ships.tell(k, seen[k])) for k in (0, 1)]
            boxes, box_sure = alone[0] if affine is None else self._fused_boxes(seen, affine)
        return Fused(source, target, sure, affine, inliers, first, boxes, box_sure, (alone[0], alone[1]))

    def ships(self, optical: Extracted, radar: Extracted, affine: Doubles) -> tuple[Floats, Floats]:
        """Ships by a given map instead of an estimated one: boxes, and how sure they are."""
        with torch.inference_mode():
            return self._fused_boxes([self._seen(k, one) for k, one in enumerate((optical, radar))], affine)

    def match(self, optical: Extracted, radar: Extracted) -> tuple[Floats, Floats, Floats]:
        """Matched points in either image, and how sure they are."""
        if min(len(optical.points), len(radar.points)) == 0:
            nothing = np.zeros((0, 2), np.float32)
            return nothing, nothing, np.zeros(0, np.float32)
        points = torch.from_numpy(optical.points[:, :2].copy()), torch.from_numpy(radar.points[:, :2].copy())
        described = [
            tokens_of(torch.from_numpy(one.tokens.copy()).view(len(one.points), DATES, DESCRIPTOR))
            for one in (optical, radar)
        ]
        tokens, wide = zip(*described, strict=True)
        near = torch.cdist(*points, compute_mode="donot_use_mm_for_euclid_dist") < SEARCH
        scores = self.model.matcher(tokens, wide, points, near, self.on)
        found = choose(self.model.matcher, scores, points, self.on, self.least)
        return found.source.numpy(), found.target.numpy(), found.sure.numpy()

    def _seen(self, sensor: int, one: Extracted) -> torch.Tensor:
        maps = torch.from_numpy(one.maps.copy()).view(ROWS, DATES, MAP_WIDTH, ROWS).permute(1, 2, 0, 3).contiguous()
        return self.model.ships.see(sensor, maps, temporal=self.on.temporal)

    def _fused_boxes(self, seen: list[torch.Tensor], affine: Doubles) -> tuple[Floats, Floats]:
        return self._boxes(self.model.ships.tell_fused(seen[0], moved_map(seen[1], affine, TILE)))

    @staticmethod
    def _boxes(said: torch.Tensor) -> tuple[Floats, Floats]:
        boxes, sure = boxes_of(said)
        return boxes.numpy(), sure.numpy()


def in_one_process(model: MatchingModel, tile: int, split: str, on: Parts = ALL) -> Fused:
    """What three processes do, in this one: bit for bit the same."""
    scene = make_scene(tile, split)
    features = [Extractor(model, sensor, on).extract(images_of(scene, sensor)) for sensor in SENSORS]
    return Fusion(model, on).fuse(features[0], features[1])
