# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Seeded scenes: a place at two dates, seen by a camera and by a radar; a known affine map relates their images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from .textures import noise
from .world import (
    BUILDING,
    COVERS,
    MARGIN,
    QUAY,
    ROAD,
    ROCK,
    SIZE,
    TILE,
    WATER,
    Ship,
    World,
    fill,
    make_world,
    rectangle,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Doubles = npt.NDArray[np.float64]

# How far a place may lie from where the same pixel of the other image is: georeferences are known that well. Every
# method, the classical ones too, looks no farther.
SEARCH = 64.0
RADIOMETRIES = ("inverted", "gradient", "unrelated")
LOOKS = (1, 2, 4)


@dataclass(frozen=True)
class Scene:
    """One place. Index 0 of the images is the date at which ships are sought, index 1 the other one.

    Attributes:
        optical: (2, TILE, TILE, 3) float32 from 0 to 1, blue, green, red.
        radar: (2, TILE, TILE) float32, decibels scaled to about 0 to 1.
        affine: (2, 3) float64, from pixels (x, y) of the optical images to those of the radar images.
        boxes: (n, 5) float32, ships of date 0 in the optical image: x, y, length, width, angle in radians.
        radar_boxes: The same in the radar image.
        looks: Of the radar: 1 is the most speckle.
        radiometry: How the radar's brightness goes with the camera's, one of RADIOMETRIES.
        cloud: Share of the optical image of date 0 that clouds hide.
    """

    optical: Floats
    radar: Floats
    affine: Doubles
    boxes: Floats
    radar_boxes: Floats
    looks: int
    radiometry: str
    cloud: float


def make_scene(seed: int, split: str) -> Scene:
    """The scene of a seed; the same seed gives the same bytes.

    Args:
        seed: Any number; scenes of "train" and "held-out" differ for equal ones.
        split: "train" or "held-out": whose textures and heights.
    """
    random = np.random.default_rng([seed, ("train", "held-out").index(split)])
    world = make_world(random, split)
    affine = _affine(random)
    looks, radiometry = int(random.choice(LOOKS)), str(random.choice(RADIOMETRIES))
    colours = _colours(random)
    decibels = _decibels(colours, radiometry, random)
    optical, clouds = zip(*(_camera(world, date, colours, random) for date in (0, 1)), strict=True)
    radar = [_radar(world, date, decibels, affine, looks, radiometry, random) for date in (0, 1)]
    boxes = np.array([ship.box for ship in world.ships if ship.dates[0]], np.float32).reshape(-1, 5)
    return Scene(
        np.stack(optical),
        np.stack(radar),
        affine,
        boxes,
        moved_boxes(boxes, affine),
        looks,
        radiometry,
        clouds[0],
    )


def warp(points: npt.ArrayLike, affine: Doubles) -> Doubles:
    """Points (n, 2) after an affine map."""
    return np.asarray(np.asarray(points, np.float64) @ affine[:, :2].T + affine[:, 2])


def inverse(affine: Doubles) -> Doubles:
    """The map back."""
    return np.asarray(cv2.invertAffineTransform(affine), np.float64)


def moved_boxes(boxes: Floats, affine: Doubles) -> Floats:
    """Oriented boxes after an affine map that nearly keeps right angles."""
    along = np.stack([np.cos(boxes[:, 4]), np.sin(boxes[:, 4])], 1)
    across = np.stack([-along[:, 1], along[:, 0]], 1)
    linear = affine[:, :2]
    long, short = along @ linear.T, across @ linear.T
    scaled = [boxes[:, 2] * np.linalg.norm(long, axis=1), boxes[:, 3] * np.linalg.norm(short, axis=1)]
    angle = np.arctan2(long[:, 1], long[:, 0])
    return np.column_stack([warp(boxes[:, :2], affine), *scaled, angle]).astype(np.float32).reshape(-1, 5)


def _affine(random: np.random.Generator) -> Doubles:
    angle = np.radians(random.uniform(-10, 10))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = np.array([[random.uniform(0.94, 1.06), random.uniform(-0.02, 0.02)], [0, random.uniform(0.94, 1.06)]])
    linear = turn @ stretch
    middle = np.full(2, TILE / 2)
    shift = random.uniform(-16, 16, 2)
    return np.column_stack([linear, middle - linear @ middle + shift])


def _colours(random: np.random.Generator) -> Floats:
    """Blue, green and red of each kind of ground."""
    colours = random.uniform(0.2, 0.8, (WATER + 1, 1)) + random.normal(0, 0.05, (WATER + 1, 3))
    colours[WATER] = random.uniform(0.08, 0.25) * np.array([1.4, 1.1, 0.8])
    colours[[QUAY, BUILDING, ROAD]] = random.uniform(0.3, 0.85, (3, 1))
    colours[ROCK] = random.uniform(0.25, 0.6)
    return np.clip(colours, 0, 1).astype(np.float32)


def _decibels(colours: Floats, radiometry: str, random: np.random.Generator) -> Floats:
    """The radar's brightness of each kind of ground."""
    grey = colours.mean(1)
    level = random.uniform(-14, -4, len(colours))
    if radiometry == "inverted":
        level[:COVERS] = -4 - 12 * grey[:COVERS] + random.normal(0, 0.7, COVERS)
    elif radiometry == "gradient":  # nearly one level: what is seen are slopes and edges
        level[:COVERS] = -9 + random.normal(0, 1.2, COVERS)
    level[WATER] = random.uniform(-21, -16)
    level[ROAD] = random.uniform(-18, -12)
    level[[BUILDING, QUAY]] = random.uniform(-2, 3, 2)
    level[ROCK] = random.uniform(-8, 2)
    return level.astype(np.float32)


def _camera(world: World, date: int, colours: Floats, random: np.random.Generator) -> tuple[Floats, float]:
    """An optical image and the share of it behind clouds."""
    inside = slice(MARGIN, MARGIN + TILE)
    cover = world.cover[date]
    image = colours[cover]
    sun = random.uniform(0, 2 * np.pi)
    down, right = np.gradient(cv2.GaussianBlur(world.height, (0, 0), 1.5))
    shade = np.clip(6 * (right * np.cos(sun) + down * np.sin(sun)), -0.25, 0.25)
    land = (cover != WATER).astype(np.float32)
    image = image + (shade * land)[..., None] + (0.06 * land * world.detail)[..., None]
    image += 0.03 * (noise(SIZE, 12, random)[..., None] - 0.5)
    for ship in world.ships:
        if ship.dates[date]:
            _sail(image, ship, colours[WATER], random)
    image = image[inside, inside]
    cloud, hidden = _cloud(random)
    image = image * (1 - 0.4 * np.roll(cloud, (10, 14), (0, 1))[..., None])
    image = image * (1 - cloud[..., None]) + cloud[..., None] * random.uniform(0.85, 1.0)
    image = random.uniform(0.85, 1.15) * image + random.uniform(-0.04, 0.04)
    image = cv2.GaussianBlur(image, (0, 0), 0.6) + random.normal(0, 0.012, image.shape)
    return np.clip(image, 0, 1).astype(np.float32), hidden


def _cloud(random: np.random.Generator) -> tuple[Floats, float]:
    """How much of each pixel is cloud; two images of three have some."""
    if random.random() < 1 / 3:
        return np.zeros((TILE, TILE), np.float32), 0.0
    field = noise(TILE, 2, random, octaves=5)
    edge = np.quantile(field, 1 - random.uniform(0.1, 0.55))
    cloud = np.clip((field - edge) * 12, 0, 0.97).astype(np.float32)
    return cloud, float((cloud > 0.5).mean())


def _sail(image: Floats, ship: Ship, water: Floats, random: np.random.Generator) -> None:
    """Paint a ship, its superstructure, and with some the wake."""
    reach = round(2 * ship.length)
    left, top = (max(0, round(middle) + MARGIN - reach) for middle in (ship.x, ship.y))
    part = image[top : top + 2 * reach, left : left + 2 * reach]
    corner = np.array([MARGIN - left, MARGIN - top])
    along = np.array([np.cos(ship.angle), np.sin(ship.angle)])
    if random.random() < 0.4:
        layer = np.zeros(part.shape[:2], np.float32)
        fill(layer, _wake(ship, along) + corner, 1)
        part += (cv2.GaussianBlur(layer, (0, 0), 1.5) * random.uniform(0.05, 0.15))[..., None]
    hull = np.zeros(part.shape[:2], np.float32)
    fill(hull, ship.outline() + corner, 1)
    colour = np.clip(water.mean() + ship.optical * random.uniform(0.8, 1.0, 3), 0.02, 1)
    part[:] = part * (1 - hull[..., None]) + hull[..., None] * colour
    bridge = np.zeros_like(hull)
    middle = np.array([ship.x, ship.y]) + corner - along * ship.length * 0.28
    fill(bridge, rectangle(middle[0], middle[1], 0.2 * ship.length, 0.7 * ship.width, ship.angle), 1)
    part += (bridge * ship.optical * random.uniform(-0.4, 0.4))[..., None]


def _wake(ship: Ship, along: Doubles) -> Doubles:
    """A wedge behind the stern."""
    across = np.array([-along[1], along[0]]) * ship.width
    stern = np.array([ship.x, ship.y]) - along * ship.length / 2
    end = stern - along * 1.2 * ship.length
    return np.asarray([stern + 0.3 * across, stern - 0.3 * across, end - 0.6 * across, end + 0.6 * across])


def _radar(
    world: World,
    date: int,
    decibels: Floats,
    affine: Doubles,
    looks: int,
    radiometry: str,
    random: np.random.Generator,
) -> Floats:
    """A radar image: what lies there, slopes that face the radar, ships, and speckle over all of it."""
    cover = world.cover[date]
    level = decibels[cover] + np.where(cover == WATER, 0, random.choice([-1.2, 1.2]) * world.detail)
    level[cover == BUILDING] += random.normal(0, 3, int((cover == BUILDING).sum()))
    for ship in world.ships:
        if ship.dates[date]:
            hull = np.zeros(level.shape, np.float32)
            fill(hull, ship.outline() + MARGIN, 1)
            level += hull * ship.radar * random.uniform(0.5, 1.3, level.shape)
    to_radar = np.column_stack([affine[:, :2], affine[:, 2] - affine[:, :2] @ np.full(2, MARGIN)])
    size, flags = (TILE, TILE), cv2.INTER_LINEAR
    power = cv2.warpAffine(
        (10 ** (level / 10)).astype(np.float32), to_radar, size, flags=flags, borderMode=cv2.BORDER_REFLECT
    )
    height = cv2.warpAffine(world.height, to_radar, size, flags=flags, borderMode=cv2.BORDER_REFLECT)
    facing = np.gradient(cv2.GaussianBlur(height, (0, 0), 1.2), axis=1)  # it looks from the left
    slope = np.clip(facing * (220 if radiometry == "gradient" else 90), -7, 7)
    speckle = random.gamma(looks, 1 / looks, size)
    seen = cv2.GaussianBlur(power, (0, 0), 0.6) * 10 ** (slope / 10) * speckle
    return np.asarray(np.clip((10 * np.log10(seen + 1e-4) + 28) / 36, 0, 1.2), np.float32)
