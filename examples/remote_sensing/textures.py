# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Real textures and real heights that come with scikit-image and matplotlib; nothing is downloaded."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import matplotlib as mpl
import numpy as np
import skimage

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

# Evaluation never sees what training saw: other images, and the other half of the height model.
TEXTURES = {
    "train": ("grass", "brick", "moon", "camera", "coffee", "chelsea", "hubble_deep_field", "motorcycle_left"),
    "held-out": ("gravel", "retina", "rocket", "astronaut", "coins", "ihc"),
}


@functools.cache
def texture(name: str) -> Floats:
    """One of scikit-image's images in shades of grey, 0 to 1.

    Raises:
        FileNotFoundError: This scikit-image does not bring it.
    """
    [path] = [*(Path(skimage.__file__).parent / "data").glob(f"{name}.*"), None][:1]
    image = None if path is None else cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise FileNotFoundError(f"scikit-image has no image {name!r} in {skimage.__file__}; version 0.26 has it")
    return np.asarray(image.astype(np.float32) / np.float32(255), np.float32)


@functools.cache
def heights(split: str) -> Floats:
    """One half of matplotlib's height model, from 0 to 1: the west to train with, the east is held out."""
    path = Path(mpl.get_data_path()) / "sample_data" / "jacksboro_fault_dem.npz"
    with np.load(path) as file:
        model = np.asarray(file["elevation"], np.float32)
    middle = model.shape[1] // 2
    half = model[:, :middle] if split == "train" else model[:, middle:]
    return np.asarray((half - half.min()) / (half.max() - half.min()), np.float32)


def cut(source: Floats, size: int, zoom: float, random: np.random.Generator) -> Floats:
    """A square of `size` pixels out of `source`, enlarged, turned and mirrored by chance; mean 0, deviation 1."""
    side = min(round(size / zoom), *source.shape)
    top, left = (int(random.integers(0, extent - side + 1)) for extent in source.shape)
    square = np.rot90(source[top : top + side, left : left + side], int(random.integers(4)))
    if random.random() < 0.5:
        square = square[:, ::-1]
    result = cv2.resize(np.ascontiguousarray(square), (size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray((result - result.mean()) / (result.std() + 1e-6), np.float32)


def noise(size: int, coarse: int, random: np.random.Generator, octaves: int = 4) -> Floats:
    """Smooth noise, each octave half as strong and half as wide; from 0 to 1.

    Args:
        size: Pixels a side.
        coarse: Cells a side in the first octave.
        random: Where it comes from.
        octaves: How many.
    """
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        cells = random.random((coarse * 2**octave + 2,) * 2, dtype=np.float32)
        total += cv2.resize(cells, (size, size), interpolation=cv2.INTER_CUBIC) / 2**octave
    return np.asarray((total - total.min()) / (total.max() - total.min()), np.float32)
