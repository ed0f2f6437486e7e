# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The buffer of tiles that extraction fills and fusion reads: a block is a tile, a token a keypoint or a map's row."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

import kvtransfer as kt

from .edges import ORIENTATIONS, STEP
from .features import KEYPOINTS
from .model import DESCRIPTOR, MAP_WIDTH, STRIDE
from .world import TILE

Floats = npt.NDArray[np.float32]

DATES = 2
ROWS = TILE // STRIDE  # of a feature map
KEYPOINT = DATES * DESCRIPTOR  # elements of a keypoint
MAP_ROW = DATES * MAP_WIDTH * ROWS  # elements of a map's row, all channels
EDGE_ROW = ORIENTATIONS * (TILE // STEP) * (TILE // STEP) // ROWS  # elements of edge channels beside a map's row
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
        edges: (ROWS, EDGE_ROW): the edge channels of all dates together, row by row; `channels_of` takes them apart.
    """

    points: Floats
    tokens: Floats
    maps: Floats
    edges: Floats


def rows_of(channels: Floats) -> Floats:
    """Edge channels (ORIENTATIONS, rows, columns) as they lie in a tile: (ROWS, EDGE_ROW)."""
    return np.ascontiguousarray(channels.transpose(1, 0, 2)).reshape(ROWS, EDGE_ROW)


def channels_of(rows: Floats) -> Floats:
    """What `rows_of` was given."""
    return np.ascontiguousarray(rows.reshape(TILE // STEP, ORIENTATIONS, TILE // STEP).transpose(1, 0, 2))


class TileBuffer:
    """Memory for some tiles, and the map that an engine publishes of it; both sides have the same."""

    def __init__(self, engine: kt.Engine, slots: int) -> None:
        """Publish `slots` tiles by this engine; in shared memory, so that readers on this host need no system calls."""
        self.slots = slots
        self.points = kt.empty((slots, KEYPOINTS, 3), np.float32)
        self.tokens = kt.empty((slots, KEYPOINTS, KEYPOINT), np.float32)
        self.maps = kt.empty((slots, ROWS, MAP_ROW), np.float32)
        self.edges = kt.empty((slots, ROWS, EDGE_ROW), np.float32)
        axes = ("block", "token", "element")
        keypoints = [engine.register_tensor(name, getattr(self, name), axes) for name in ("points", "tokens")]
        rows = [engine.register_tensor(name, getattr(self, name), axes, table=MAP_TABLE) for name in ("maps", "edges")]
        engine.publish(kt.TensorMap([*keypoints, *rows]))

    def copy_of(self, slot: int, count: int) -> Extracted:
        """What lies in a slot, `count` keypoints, in memory of its own."""
        keypoints = self.points[slot, :count].copy(), self.tokens[slot, :count].copy()
        return Extracted(*keypoints, self.maps[slot].copy(), self.edges[slot].copy())


def keypoint_tables(slot: int, stop: int) -> list[list[int]]:
    """Block tables that name a tile's keypoints; where its map would be, up to `stop`, they have holes."""
    return [[slot], [HOLE] * -(-stop // ROWS)]


def map_tables(slot: int) -> list[list[int]]:
    """Block tables that name a tile's map, and none of its keypoints."""
    return [[HOLE], [slot]]
