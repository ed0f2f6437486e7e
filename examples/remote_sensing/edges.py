# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""How strong edges of each orientation are, without their sign: what sensors that see brightness differently share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from .features import Bytes, Floats

ORIENTATIONS = 9
STEP = 2  # pixels: edge channels are that coarse
SMOOTH = 1.2  # pixels


def edge_channels(image: Bytes) -> Floats:
    """How strong edges of each orientation are: (ORIENTATIONS, rows / STEP, columns / STEP), normalised per pixel."""
    soft = cv2.GaussianBlur(image.astype(np.float32), (0, 0), SMOOTH)
    right, down = cv2.Sobel(soft, cv2.CV_32F, 1, 0, ksize=3), cv2.Sobel(soft, cv2.CV_32F, 0, 1, ksize=3)
    strength = np.hypot(right, down)
    angle = np.arctan2(down, right) % np.pi * (ORIENTATIONS / np.pi)
    channels = []
    for k in range(ORIENTATIONS):
        away = np.abs((angle - k + ORIENTATIONS / 2) % ORIENTATIONS - ORIENTATIONS / 2)
        channel = strength * np.clip(1 - away, 0, None)
        # The mean of a cell's pixels: it stands for their middle.
        channels.append(
            cv2.resize(
                cv2.GaussianBlur(channel, (0, 0), 2.0), None, fx=1 / STEP, fy=1 / STEP, interpolation=cv2.INTER_AREA
            )
        )
    stacked = np.stack(channels)
    return np.asarray(stacked / (np.linalg.norm(stacked, axis=0) + 0.1 * stacked.max()), np.float32)
