# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""One sensor's worker: keypoints and features of tile after tile, kept under leases until fusion has read them.

It takes orders as JSON lines on its standard input and announces tiles on its standard output. A tile is announced,
with its leases, as soon as its keypoints are counted: the features follow, and the watermark says how far they are.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

import kvtransfer as kt

from .edges import edge_channels
from .features import SENSORS, composite, find_keypoints, images_of
from .model import ALL, Parts, describe
from .scenes import make_scene
from .tiles import CHUNK, KEYPOINT, KEYPOINT_TABLE, MAP_TABLE, ROWS, Extracted, TileBuffer, rows_of
from .train import load
from .world import TILE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .model import Encoder, Features, MatchingModel
    from .tiles import Floats

SLOTS = 3  # tiles that a worker holds at a time; with all of them taken it waits for fusion
TERM = 60.0  # seconds that a lease lasts if nobody reads and completes it


class Extractor:
    """Computes one sensor's features: the same whoever calls it, a worker or a single process."""

    def __init__(self, model: MatchingModel, sensor: str, on: Parts = ALL) -> None:
        self.sensor = sensor
        self.encoder: Encoder = model.encoders[sensor]
        self.dates = 2 if on.temporal else 1

    def find(self, images: Floats) -> tuple[Floats, Floats]:
        """The keypoints (n, 3) of a tile's images, and its edge channels, row by row; cheap beside the rest."""
        image = composite(images, self.sensor, self.dates)
        return find_keypoints(image)[0], rows_of(edge_channels(image))

    def describe(self, images: Floats, points: Floats) -> tuple[Floats, Iterator[tuple[int, Floats]]]:
        """The tile's map, and its keypoints' tokens CHUNK by CHUNK, each with the number of its first one."""
        with torch.inference_mode():
            features = self.encoder(torch.from_numpy(images))
        rows = np.ascontiguousarray(features.maps.permute(2, 0, 1, 3).reshape(ROWS, -1).numpy())
        return rows, self._chunks(features, points)

    @staticmethod
    def _chunks(features: Features, points: Floats) -> Iterator[tuple[int, Floats]]:
        for first in range(0, len(points), CHUNK):
            where = torch.from_numpy(points[first : first + CHUNK, :2].copy())
            with torch.inference_mode():
                tokens = describe(features, where, TILE).flatten(1)
            yield first, tokens.numpy()

    def extract(self, images: Floats) -> Extracted:
        """All of it at once."""
        points, edges = self.find(images)
        maps, chunks = self.describe(images, points)
        tokens = [chunk for _, chunk in chunks]
        together = np.concatenate([np.zeros((0, KEYPOINT), np.float32), *tokens])
        return Extracted(points, together, maps, edges)


class Worker:
    """Extracts tiles into its buffer, each under two leases: keypoints, and map."""

    def __init__(self, extractor: Extractor, engine: kt.Engine) -> None:
        self.extractor, self.engine = extractor, engine
        self.buffer = TileBuffer(engine, SLOTS)
        self._taken: dict[tuple[int, int], int] = {}  # slot of the buffer, by lease id

    def free_slot(self, within: float = 2 * TERM) -> int:
        """A slot on which no lease stands; waits for one, and so for fusion.

        Raises:
            TimeoutError: None became free.
        """
        deadline = time.monotonic() + within
        while True:
            for ended in self.engine.take_ended():
                self._taken.pop((ended.lease.slot, ended.lease.epoch), None)
            free = set(range(SLOTS)) - set(self._taken.values())
            if free:
                return min(free)
            if time.monotonic() > deadline:
                raise TimeoutError(f"no tile was completed within {within:.0f} s; all {SLOTS} slots are taken")
            time.sleep(0.002)

    def grant(self, slot: int, table: int) -> kt.LeaseRef:
        """A lease on a slot's keypoints or on its map, of which nothing is final yet."""
        tables = [[slot] if table == one else [] for one in (KEYPOINT_TABLE, MAP_TABLE)]
        lease = self.engine.grant(tables, watermark=0, term=TERM)
        self._taken[lease.slot, lease.epoch] = slot
        return lease

    def work(self, tile: int, split: str) -> None:
        """Extract a tile, announce it in the middle."""
        images = images_of(make_scene(tile, split), self.extractor.sensor)
        points, edges = self.extractor.find(images)
        slot = self.free_slot()
        self.buffer.points[slot, : len(points)] = points
        keypoints, rows = self.grant(slot, KEYPOINT_TABLE), self.grant(slot, MAP_TABLE)
        leases = {"keypoints": [keypoints.slot, keypoints.epoch], "map": [rows.slot, rows.epoch]}
        say({"tile": tile, "slot": slot, "count": len(points), **leases})
        maps, chunks = self.extractor.describe(images, points)
        self.buffer.maps[slot], self.buffer.edges[slot] = maps, edges
        self.engine.raise_watermarks([(rows, ROWS)])
        for first, tokens in chunks:
            self.buffer.tokens[slot, first : first + len(tokens)] = tokens
            self.engine.raise_watermarks([(keypoints, first + len(tokens))])


def say(told: dict[str, object]) -> None:
    """One line to whoever started this."""
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Work until the standard input ends, which it also does when fusion dies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sensor", choices=SENSORS, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--no-temporal", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    extractor = Extractor(load(arguments.model), arguments.sensor, Parts(temporal=not arguments.no_temporal))
    with kt.Engine(name=f"{arguments.sensor}-{os.getpid()}") as engine:
        worker = Worker(extractor, engine)
        say({"descriptor": engine.descriptor().hex()})
        for line in sys.stdin:
            order = json.loads(line)
            worker.work(int(order["tile"]), str(order["split"]))


if __name__ == "__main__":
    main()
