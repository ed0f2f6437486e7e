# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What lies on the ground: a coast with fields, roads, buildings, quays and rocks, and ships that come and go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from .textures import TEXTURES, cut, heights, noise, texture

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Bytes = npt.NDArray[np.uint8]

TILE = 256  # pixels of an image
MARGIN = 64  # the world is larger on each side, so that a turned image of it is full
SIZE = TILE + 2 * MARGIN
COVERS = 6  # kinds of fields; then the four below
ROAD, BUILDING, QUAY, ROCK = range(COVERS, COVERS + 4)
WATER = COVERS + 4
SUBPIXEL = 4  # bits of a drawn polygon's coordinates behind the point


@dataclass(frozen=True)
class Ship:
    """A ship seen from above, in pixels of the optical image.

    Attributes:
        x: Of its middle.
        y: Of its middle.
        length: Along its course.
        width: Across it.
        angle: From the x axis to its course, radians; y points down.
        dates: Whether it is there, for both dates.
        optical: How much brighter than water it is, 0 to 1; some are hardly seen.
        radar: The same in decibels; some, as of wood or plastic, are hardly seen in speckle.
    """

    x: float
    y: float
    length: float
    width: float
    angle: float
    dates: tuple[bool, bool]
    optical: float
    radar: float

    @property
    def box(self) -> tuple[float, float, float, float, float]:
        """Middle, length, width and angle."""
        return self.x, self.y, self.length, self.width, self.angle

    def outline(self) -> Floats:
        """Its hull with a pointed bow, five corners."""
        half, side = self.length / 2, self.width / 2
        hull = [[-half, -side], [0.6 * half, -side], [half, 0], [0.6 * half, side], [-half, side]]
        along = np.array([np.cos(self.angle), np.sin(self.angle)])
        turn = np.array([along, [-along[1], along[0]]])
        return np.asarray(np.array(hull) @ turn + [self.x, self.y], np.float32)


@dataclass(frozen=True)
class World:
    """All that both sensors look at; arrays of SIZE x SIZE.

    Attributes:
        cover: What lies where, a kind for every pixel and date: (2, SIZE, SIZE).
        height: Of the land, 0 to 1; water is at 0.
        detail: Fine structure, mean 0 and deviation 1.
        ships: At either date.
    """

    cover: Bytes
    height: Floats
    detail: Floats
    ships: tuple[Ship, ...]


def fill(image: npt.NDArray[np.generic], polygon: npt.ArrayLike, value: float) -> None:
    """Paint a polygon, to fractions of a pixel and with smooth edges where the image is of floats."""
    points = np.round(np.asarray(polygon) * 2**SUBPIXEL).astype(np.int32)
    line = cv2.LINE_8 if image.dtype == np.uint8 else cv2.LINE_AA
    cv2.fillPoly(image, [points], value, lineType=line, shift=SUBPIXEL)


def rectangle(x: float, y: float, length: float, width: float, angle: float) -> Floats:
    """The corners of an oriented box."""
    return np.asarray(cv2.boxPoints(((x, y), (length, width), float(np.degrees(angle)))), np.float32)


def make_world(random: np.random.Generator, split: str) -> World:
    """A coast that has not been seen before.

    Args:
        random: Decides everything.
        split: "train" or "held-out": whose textures and heights.
    """
    names = TEXTURES[split]
    pattern = cut(texture(names[random.integers(len(names))]), SIZE, random.uniform(1.0, 2.5), random)
    land, shore = _land(random)
    cover = _fields(pattern, random)
    _roads(cover, random)
    _buildings(cover, land, random)
    cover[~land] = WATER
    _quays(cover, shore, random)
    _rocks(cover, random)
    second = cover.copy()
    for kind in random.permutation(COVERS)[:2]:  # what grows there has changed
        second[cover == kind] = random.integers(COVERS)
    height = cut(heights(split), SIZE, random.uniform(2.0, 4.0), random)
    height = (height - height.min()) / (height.max() - height.min()) + 0.05 * cv2.GaussianBlur(pattern, (0, 0), 2)
    height = np.where(cover == WATER, np.float32(0), height).astype(np.float32)
    return World(np.stack([cover, second]), height, pattern, _ships(cover, random))


def _land(random: np.random.Generator) -> tuple[npt.NDArray[np.bool_], Floats]:
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    angle = random.uniform(0, 2 * np.pi)
    across = (columns - SIZE / 2) * np.cos(angle) + (rows - SIZE / 2) * np.sin(angle)
    shore = across + 60 * (noise(SIZE, 3, random) - 0.5) + random.uniform(-40, 50)
    return shore > 0, np.asarray(shore, np.float32)


def _fields(pattern: Floats, random: np.random.Generator) -> Bytes:
    """Patches that follow the texture, and beside them fields with straight edges."""
    smooth = cv2.GaussianBlur(pattern, (0, 0), random.uniform(2, 5))
    limits = np.quantile(smooth, np.sort(random.uniform(0.15, 0.85, 3)))
    organic = random.permutation(COVERS)[:4][np.digitize(smooth, limits)].astype(np.uint8)
    sites = np.ones((SIZE, SIZE), np.uint8)
    sites[tuple(random.integers(0, SIZE, (2, int(random.integers(30, 70)))))] = 0
    _, nearest = cv2.distanceTransformWithLabels(sites, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    straight = random.integers(0, COVERS, int(nearest.max()) + 1).astype(np.uint8)[nearest]
    cover: Bytes = np.where(noise(SIZE, 3, random) > random.uniform(0.35, 0.6), organic, straight).astype(np.uint8)
    return cover


def _roads(cover: Bytes, random: np.random.Generator) -> None:
    for _ in range(random.integers(1, 4)):
        angle, at = random.uniform(0, np.pi), random.uniform(0.2, 0.8, 2) * SIZE
        far = np.arange(-SIZE, SIZE, 24)
        bend = np.cumsum(random.normal(0, 3, len(far)))
        along, normal = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        line = at + far[:, None] * along + bend[:, None] * normal
        cv2.polylines(cover, [line.astype(np.int32)], isClosed=False, color=ROAD, thickness=int(random.integers(2, 5)))


def _buildings(cover: Bytes, land: npt.NDArray[np.bool_], random: np.random.Generator) -> None:
    places = np.argwhere(land)
    for _ in range(random.integers(1, 5)):
        y, x = places[random.integers(len(places))]
        angle = random.uniform(0, np.pi)
        for _ in range(random.integers(2, 8)):
            where = np.array([x, y]) + random.normal(0, 16, 2)
            fill(cover, rectangle(where[0], where[1], random.uniform(5, 16), random.uniform(5, 16), angle), BUILDING)


def _quays(cover: Bytes, shore: Floats, random: np.random.Generator) -> None:
    edge = np.argwhere(np.abs(shore) < 1.5)
    for _ in range(random.integers(1, 4)):
        if len(edge) == 0:
            return
        y, x = edge[random.integers(len(edge))]
        slope = np.gradient(cv2.GaussianBlur(shore, (0, 0), 8))
        out = np.arctan2(-slope[0][y, x], -slope[1][y, x]) + random.normal(0, 0.2)
        length = random.uniform(20, 50)
        middle = x + length / 3 * np.cos(out), y + length / 3 * np.sin(out)
        fill(cover, rectangle(middle[0], middle[1], length, random.uniform(5, 10), out), QUAY)


def _rocks(cover: Bytes, random: np.random.Generator) -> None:
    """Of a ship's size, and there at both dates: what a detector may take for ships."""
    water = np.argwhere(cover == WATER)
    for _ in range(random.integers(2, 8)):
        if len(water) == 0:
            return
        y, x = water[random.integers(len(water))]
        turns = np.linspace(0, 2 * np.pi, 10, endpoint=False)
        long, short = random.uniform(5, 14), random.uniform(3, 6)
        around = np.stack([long * np.cos(turns), short * np.sin(turns)], 1) * random.uniform(0.7, 1.2, (10, 1))
        tilt = random.uniform(0, np.pi)
        turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
        fill(cover, around @ turn + [x, y], ROCK)


def _ships(cover: Bytes, random: np.random.Generator) -> tuple[Ship, ...]:
    """On free water, apart from each other, whole in the optical image."""
    free = (cover == WATER).astype(np.uint8)
    ships: list[Ship] = []
    for _ in range(40):
        if len(ships) == 9:
            break
        length = random.uniform(20, 46)
        x, y = random.uniform(MARGIN + 12, MARGIN + TILE - 12, 2)
        width, angle = length * random.uniform(0.22, 0.32), random.uniform(0, 2 * np.pi)
        mask = np.zeros_like(free)
        fill(mask, rectangle(x, y, length + 6, width + 6, angle), 1)
        if not free[mask > 0].all():
            continue
        free[mask > 0] = 0
        faint, dim = random.random() < 0.25, random.random() < 0.25
        optical = random.uniform(0.04, 0.08) if faint else random.choice([-0.12, 1.0]) * random.uniform(0.3, 0.6)
        radar = random.uniform(0.2, 1.5) if dim else random.uniform(9, 18)
        dates = ((True, True), (True, False), (True, False), (False, True))[random.integers(4)]
        ships.append(Ship(x - MARGIN, y - MARGIN, length, width, angle, dates, optical, radar))
    return tuple(ships)
