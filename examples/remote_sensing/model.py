# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The network: an encoder for each sensor, which share no weights, and what fuses their features.

After the published outline of "Cross Spatial Temporal Fusion Attention for Remote Sensing Object Detection via Image
Feature Matching" (arXiv 2507.19118): keypoints found independently, patches as tokens, a cross spatial-temporal fusion
block, correspondence maps of several regions, and similarity as a classification. Its code and its figures are not
public; sizes, losses and heads are this example's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from .matching import Matcher
from .ships import ShipFinder

WIDTH = 64  # of a token
TOKENS = 16  # of a patch, 4 x 4
SPACING = 8.0  # pixels between a patch's tokens
WIDE_TOKENS = 25  # of the wide patch, 5 x 5
WIDE_SPACING = 14.0  # pixels between them
WIDE_LEARNED = 16  # channels of a wide token that are learned; the oriented edges come after them
EDGES = 6  # orientations
WIDE_WIDTH = WIDE_LEARNED + EDGES
DESCRIPTOR = TOKENS * WIDTH + WIDE_TOKENS * WIDE_WIDTH  # values of a keypoint at one date
MAP_WIDTH = 32  # channels of a feature map
STRIDE = 4  # pixels of an image for one cell of a feature map
CHANNELS = {"optical": 3, "radar": 1}


@dataclass(frozen=True)
class Parts:
    """What is switched on; ablations switch it off.

    Attributes:
        temporal: The other date is looked at.
        fusion: The fusion block is there; without it tokens of one sensor never meet those of the other one.
        classify: Correspondence is a classification over all candidates; otherwise the nearest cosine.
    """

    temporal: bool = True
    fusion: bool = True
    classify: bool = True


ALL = Parts()


def convolution(before: int, after: int, stride: int = 1) -> nn.Sequential:
    """Three by three, normalised."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.GroupNorm(8, after), nn.ReLU(inplace=True)
    )


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(convolution(width, width), convolution(width, width))

    def forward(self, features: Tensor) -> Tensor:
        """Of the same shape."""
        return features + self.inner(features)


class OrientedEdges(nn.Module):
    """How strong edges of each orientation are, without their sign, at half the resolution; nothing of it is learned.

    What is bright for one sensor may be dark for the other, but their borders are the same: it spares the encoders
    finding that out.
    """

    def __init__(self) -> None:
        super().__init__()
        place = torch.arange(-4, 5).float()
        bell = torch.exp(-place.square() / (2 * 1.5**2))
        slope = torch.outer(bell, -place * bell)
        self.register_buffer("slopes", torch.stack([slope, slope.T])[:, None] / slope.abs().sum(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(dates, EDGES, rows / 2, columns / 2), of about 0 to 1."""
        with torch.no_grad():
            grey = functional.avg_pool2d(images.mean(1, keepdim=True), 2)
            right, down = functional.conv2d(functional.pad(grey, (4, 4, 4, 4), mode="replicate"), self.slopes).unbind(1)
            strength = torch.sqrt(right.square() + down.square() + 1e-12)
            angle = torch.atan2(down, right) * (EDGES / math.pi)
            away = torch.remainder(angle[:, None] - torch.arange(EDGES)[:, None, None] + EDGES / 2, EDGES) - EDGES / 2
            edges = strength[:, None] * (1 - away.abs()).clamp(min=0)
            return edges / (strength[:, None] + strength.mean((1, 2), keepdim=True)[:, None])


class Encoder(nn.Module):
    """One sensor's: features of a quarter of the resolution that know what lies 100 pixels around."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = convolution(channels, 16, 2)
        self.edges = OrientedEdges()
        self.quarter = nn.Sequential(convolution(16 + EDGES, 48, 2), Residual(48))
        self.eighth = nn.Sequential(convolution(48, 64, 2), Residual(64))
        self.sixteenth = nn.Sequential(convolution(64, 64, 2), Residual(64))
        self.sides = nn.ModuleList(nn.Conv2d(width, WIDTH, 1) for width in (48, 64, 64))
        self.smooth = convolution(WIDTH, WIDTH)
        self.to_features = nn.Conv2d(WIDTH, WIDTH, 1)
        self.to_wide = nn.Conv2d(WIDTH, WIDE_LEARNED, 1)
        self.to_map = nn.Conv2d(WIDTH, MAP_WIDTH, 1)

    def forward(self, images: Tensor) -> Features:
        """Of both dates' images (dates, channels, rows, columns)."""
        images = images.contiguous(memory_format=torch.channels_last)
        edges = self.edges(images)
        quarter = self.quarter(torch.cat([self.stem(images - 0.5), edges], 1))
        eighth = self.eighth(quarter)
        coarse = self.sides[1](eighth) + twice(self.sides[2](self.sixteenth(eighth)))
        smooth = self.smooth(self.sides[0](quarter) + twice(coarse))
        wide = torch.cat([self.to_wide(coarse), functional.avg_pool2d(edges, 4)], 1)
        return Features(self.to_features(smooth), wide, self.to_map(smooth))


class Features(NamedTuple):
    """What an encoder makes of one sensor's images.

    Attributes:
        fine: (dates, WIDTH, rows / 4, columns / 4), to sample patches from.
        wide: (dates, WIDE_WIDTH, rows / 8, columns / 8), to sample wide patches from.
        maps: (dates, MAP_WIDTH, rows / 4, columns / 4), to find ships in.
    """

    fine: Tensor
    wide: Tensor
    maps: Tensor


def twice(grid: Tensor) -> Tensor:
    """Of double the resolution."""
    return functional.interpolate(grid, scale_factor=2, mode="bilinear", align_corners=False)


def describe(features: Features, points: Tensor, size: int) -> Tensor:
    """The descriptors of keypoints: tokens of a patch, then those of a wide patch.

    Args:
        features: Of the image.
        points: (n, 2), pixels x and y of the image.
        size: Pixels of the image's sides.

    Returns:
        (n, dates, DESCRIPTOR); `tokens_of` takes it apart.
    """
    patches = ((features.fine, 4, SPACING), (features.wide, 5, WIDE_SPACING))
    parts = []
    for grid, side, spacing in patches:
        steps = (torch.arange(side) - (side - 1) / 2) * spacing
        around = torch.stack(torch.meshgrid(steps, steps, indexing="ij")[::-1], -1).reshape(1, -1, 2)
        places = (points[:, None] + around + 0.5) * (2 / size) - 1
        places = places[None].expand(grid.shape[0], -1, -1, -1)
        sampled = functional.grid_sample(grid, places, padding_mode="border", align_corners=False)
        parts.append(sampled.permute(2, 0, 3, 1).flatten(2))
    return torch.cat(parts, 2)


def tokens_of(described: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (n, dates, TOKENS, WIDTH) and wide tokens (n, dates, WIDE_TOKENS, WIDE_WIDTH)."""
    fine, wide = described.split((TOKENS * WIDTH, WIDE_TOKENS * WIDE_WIDTH), 2)
    return fine.unflatten(2, (TOKENS, WIDTH)), wide.unflatten(2, (WIDE_TOKENS, WIDE_WIDTH))


class MatchingModel(nn.Module):
    """All of it; workers use one encoder each, fusion the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({sensor: Encoder(channels) for sensor, channels in CHANNELS.items()})
        self.encoders.to(memory_format=torch.channels_last)  # faster on CPUs
        self.matcher = Matcher(WIDTH, TOKENS, WIDE_TOKENS, (WIDE_LEARNED, EDGES))
        self.ships = ShipFinder(MAP_WIDTH)

    @property
    def parameters_in_millions(self) -> float:
        """Its size."""
        return float(sum(weight.numel() for weight in self.parameters()) / 1e6)
