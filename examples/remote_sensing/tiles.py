# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The buffer of tiles that extraction fills and fusion reads: a block is a tile, a token a keypoint or a map's row."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

import kvtransfer as kt

from .features import KEYPOINTS
from .model import DESCRIPTOR, MAP_WIDTH, STRIDE
from .world import TILE

Floats = npt.NDArray[np.float32]

DATES = 2
ROWS = TILE // STRIDE  # of a feature map
KEYPOINT = DATES * DESCRIPTOR  # elements of a keypoint
MAP_ROW = DATES * MAP_WIDTH * ROWS  # elements of a map's row, all channels
CHUNK = 64  # keypoints that are written before the watermark rises, and that one pull asks for
# Keypoints and maps have tables of their own, and so leases: keypoints are of any number, rows always of one.
KEYPOINT_TABLE, MAP_TABLE = 0, 1
HOLE = -1


class Extracted(NamedTuple):
    """One sensor's features of one tile.

    Attributes:
        points: (n, 3): x, y and size of the keypoints, the best first.
        tokens: (n, KEYPOINT): of each of them.
        maps: (ROWS, MAP_ROW): row by row.
    """

    points: Floats
    tokens: Floats
    maps: Floats


class TileBuffer:
    """Memory for some tiles, and the map that an engine publishes of it; both sides have the same."""

    def __init__(self, engine: kt.Engine, slots: int) -> None:
        """Publish `slots` tiles by this engine; in shared memory, so that readers on this host need no system calls."""
        self.slots = slots
        self.points = kt.empty((slots, KEYPOINTS, 3), np.float32)
        self.tokens = kt.empty((slots, KEYPOINTS, KEYPOINT), np.float32)
        self.maps = kt.empty((slots, ROWS, MAP_ROW), np.float32)
        axes = ("block", "token", "element")
        keypoints = [engine.register_tensor(name, getattr(self, name), axes) for name in ("points", "tokens")]
        rows = engine.register_tensor("maps", self.maps, axes)
        second = kt.Component(
            rows.name,
            rows.axes,
            dtype=rows.dtype,
            item_bytes=rows.item_bytes,
            region=rows.region,
            offset=rows.offset,
            table=MAP_TABLE,
        )
        engine.publish(kt.TensorMap([*keypoints, second]))

    def copy_of(self, slot: int, count: int) -> Extracted:
        """What lies in a slot, `count` keypoints, in memory of its own."""
        return Extracted(self.points[slot, :count].copy(), self.tokens[slot, :count].copy(), self.maps[slot].copy())


def keypoint_tables(slot: int, stop: int) -> list[list[int]]:
    """Block tables that name a tile's keypoints; where its map would be, up to `stop`, they have holes."""
    return [[slot], [HOLE] * -(-stop // ROWS)]


def map_tables(slot: int) -> list[list[int]]:
    """Block tables that name a tile's map, and none of its keypoints."""
    return [[HOLE], [slot]]
