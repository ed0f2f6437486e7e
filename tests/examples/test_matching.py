# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""examples/remote_sensing, small: a few steps of training, then real workers, one of which is killed in mid-tile."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from remote_sensing import fuse, sources, tiles
from remote_sensing.baselines import edge_templates, sift
from remote_sensing.edges import edge_channels
from remote_sensing.evaluate import MatchScore, average_precision, corner_error, overlap
from remote_sensing.extract import Extractor
from remote_sensing.features import SENSORS, composite, images_of
from remote_sensing.refine import UNSEEN, _between, _peaks, refine
from remote_sensing.scenes import make_scene, moved_boxes, warp
from remote_sensing.sources import Asked, TilePairs
from remote_sensing.textures import TEXTURES
from remote_sensing.tiles import channels_of, rows_of
from remote_sensing.train import load

import kvtransfer

if TYPE_CHECKING:
    import numpy.typing as npt
    from remote_sensing.model import MatchingModel
    from remote_sensing.tiles import Extracted

EXAMPLES = Path(fuse.__file__).resolve().parents[1]
TILES = (11, 12, 13, 14, 15)
VICTIMS = {("optical", 12), ("radar", 14)}
SPLIT = "held-out"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # as workers have: sums in another order have other bits


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a few steps of the real training leave."""
    out = tmp_path_factory.mktemp("matching")
    done = subprocess.run(
        [sys.executable, "-m", "remote_sensing", "train", "--steps", "3", "--out", str(out)],
        cwd=EXAMPLES,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    history = json.loads((out / "losses.json").read_text())
    assert [entry["step"] for entry in history] == [1, 2, 3]
    assert all(np.isfinite(list(entry.values())).all() for entry in history)
    assert (out / "losses.png").read_bytes().startswith(b"\x89PNG")
    return out / "model.pt"


@pytest.fixture(scope="module")
def model(weights: Path) -> MatchingModel:
    return load(weights)


@pytest.fixture(scope="module")
def alone(model: MatchingModel) -> list[list[Extracted]]:
    """Each tile's features, computed in this process."""
    scenes = [make_scene(tile, SPLIT) for tile in TILES]
    return [[Extractor(model, sensor).extract(images_of(scene, sensor)) for sensor in SENSORS] for scene in scenes]


def test_three_processes_tell_what_one_does(
    weights: Path, model: MatchingModel, alone: list[list[Extracted]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, and also where workers are killed while a tile of theirs is being pulled: it is done again.

    There are more tiles than slots: without `complete` the fourth would never come.
    """
    assert len(TILES) > sources.SLOTS
    monkeypatch.setattr(sources, "DEADLINE", 30.0)
    killed: dict[tuple[str, int], int] = {}

    def watch(asked: Asked) -> None:
        where = asked.sensor, asked.tile
        if where in VICTIMS and where not in killed:
            killed[where] = asked.pid
            os.kill(asked.pid, signal.SIGKILL)

    # So few steps leave no match that is sure: all that are each other's best are kept, for there to be some.
    fusion = fuse.Fusion(model, least=0.0)
    matches = 0
    with TilePairs(weights, watch=watch) as pairs:
        for tile, expected, got in zip(TILES, alone, pairs.pairs(TILES, SPLIT), strict=True):
            assert [one.tile for one in got] == [tile, tile]
            for mine, theirs in zip(expected, got, strict=True):
                assert len(mine.points) > 50, "a tile without keypoints shows nothing"
                for name in ("points", "tokens", "maps", "edges"):
                    assert getattr(mine, name).tobytes() == getattr(theirs.features, name).tobytes(), (tile, name)
            fused = fusion.fuse(*(one.features for one in got))
            assert fused.equal(fusion.fuse(*expected))
            matches += len(fused.source)
        assert [source.replaced for source in pairs.sources] == [1, 1]
    assert matches > 20
    assert killed.keys() == VICTIMS


def test_a_worker_that_always_dies_is_an_error(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a wait without an end, and not a tile that is left out."""
    monkeypatch.setattr(sources, "TRIES", 2)

    def watch(asked: Asked) -> None:
        if asked.sensor == "radar":
            os.kill(asked.pid, signal.SIGKILL)

    with TilePairs(weights, watch=watch) as pairs:
        with pytest.raises((sources.WorkerLostError, kvtransfer.KVTransferError)):
            next(pairs.pairs(TILES[:1], SPLIT))
        assert pairs.sources[1].replaced == 1


def test_without_weights_it_says_what_makes_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make matching"):
        load(tmp_path / "model.pt")


def test_a_seed_is_a_scene() -> None:
    one, again, other = make_scene(5, "train"), make_scene(5, "train"), make_scene(5, SPLIT)
    assert one.optical.tobytes() == again.optical.tobytes()
    assert one.radar.tobytes() == again.radar.tobytes()
    assert one.optical.tobytes() != other.optical.tobytes()
    assert not set(TEXTURES["train"]) & set(TEXTURES["held-out"])


def test_the_known_map_is_the_true_one() -> None:
    """Ships shine in the radar image where the map says that they are; by one that is off by 12 pixels they do not."""
    inside, beside = [], []
    for seed in range(9):
        scene = make_scene(seed, "train")
        for shift, found in ((0, inside), (12, beside)):
            moved = scene.affine + np.array([[0, 0, shift], [0, 0, -shift]])
            places = np.round(warp(scene.boxes[:, :2], moved)).astype(int)
            places = places[((places > 2) & (places < tiles.TILE - 3)).all(1)]
            found += [scene.radar[0, y - 1 : y + 2, x - 1 : x + 2].mean() for x, y in places]
    assert len(inside) > 15
    assert np.median(inside) > np.median(beside) + 0.15


def test_boxes_move_as_their_corners_do() -> None:
    scene = next(scene for seed in range(9) if len((scene := make_scene(seed, "train")).boxes) > 2)
    middle, length = scene.radar_boxes[:, :2], scene.radar_boxes[:, 2]
    along = np.column_stack([np.cos(scene.boxes[:, 4]), np.sin(scene.boxes[:, 4])])
    bow = warp(scene.boxes[:, :2] + along * scene.boxes[:, 2:3] / 2, scene.affine)
    assert np.allclose(np.linalg.norm(bow - middle, axis=1), length / 2, atol=0.01)
    back = moved_boxes(scene.radar_boxes, np.array(cv2.invertAffineTransform(scene.affine)))
    assert np.allclose(back[:, :2], scene.boxes[:, :2], atol=1e-3)


def test_overlap_and_average_precision() -> None:
    def moved(x: float, y: float, turn: float = 0.0) -> npt.NDArray[np.float32]:
        return np.array([50 + x, 50 + y, 20, 10, 0.3 + turn], np.float32)

    box, far, turned = moved(0, 0), moved(100, 0), moved(0, 0, np.pi)
    beside = moved(10 * np.cos(0.3), 10 * np.sin(0.3))
    assert overlap(box, box) == pytest.approx(1, abs=1e-3)
    assert overlap(box, turned) == pytest.approx(1, abs=1e-3)
    assert overlap(box, beside) == pytest.approx(1 / 3, abs=1e-2)
    there, sure = np.stack([box, far]), np.array([0.9, 0.8], np.float32)
    assert average_precision([(there, sure)], [there]) == 1
    assert average_precision([(np.stack([box, box]), sure)], [there]) == 0.5  # one box is found once
    assert average_precision([(np.stack([moved(-40, 0), box]), sure)], [there]) == 0.25
    assert average_precision([(there[:0], sure[:0])], [there]) == 0


def test_a_rough_map_becomes_a_good_one() -> None:
    """Off by some 12 pixels and turned a little; what is found around a map that is far off does not agree on any."""
    rough, good, lost = [], [], []
    for seed in range(4):
        scene = make_scene(seed, "train")
        edges = [edge_channels(composite(images_of(scene, sensor), sensor)) for sensor in SENSORS]
        assert [channels_of(rows_of(one)).tobytes() for one in edges] == [one.tobytes() for one in edges]
        for turn, shift, into in ((-0.03, 8.0, good), (0.0, 70.0, lost)):
            begun = scene.affine + np.array([[0, -turn, shift], [turn, 0, -shift]])
            found = refine(edges[0], edges[1], begun)
            into.append(999 if found is None else corner_error(found.affine, scene.affine))
            if into is good:
                assert found is not None
                assert len(found.source) == len(found.target) == len(found.sure) == len(found.inliers)
                rough.append(corner_error(begun, scene.affine))
                near = np.linalg.norm(warp(found.source, scene.affine) - found.target, axis=1) < 3
                assert near.mean() > 0.6
    assert min(rough) > 8
    assert max(good) < 3
    assert min(lost) > 20


@pytest.mark.parametrize(
    ("turn", "right", "down", "within"), [(0.0, 0.0, 0.0, 0.1), (0.0, 3.5, -2.25, 0.25), (0.15, -11.3, 20.7, 0.8)]
)
def test_of_one_image_moved_the_map_is_found_to_parts_of_a_pixel(
    turn: float, right: float, down: float, within: float
) -> None:
    """Where it is turned orientations lie between two channels."""
    truth = np.array([[np.cos(turn), -np.sin(turn), right], [np.sin(turn), np.cos(turn), down]])
    image = composite(images_of(make_scene(3, "train"), "optical"), "optical")
    edges = [edge_channels(one) for one in (image, np.asarray(cv2.warpAffine(image, truth, (256, 256)), np.uint8))]
    found = refine(edges[0], edges[1], truth + np.array([[0, 0, 5.0], [0, 0, -3.0]]))
    assert found is not None
    assert corner_error(found.affine, truth) < within
    assert found.sure.max() < 1.001
    assert np.median(found.sure) > 0.8


def test_the_highest_place_between_three() -> None:
    def parabola(at: float) -> float:
        return 2.0 - (at - 0.2) ** 2

    before, middle, after = (torch.tensor([parabola(at)]) for at in (-1.0, 0.0, 1.0))
    assert _between(before, middle, after).item() == pytest.approx(0.2, abs=1e-5)
    assert _between(after, middle, before).item() == pytest.approx(-0.2, abs=1e-5)


def test_beside_what_is_not_seen_there_is_no_highest_place() -> None:
    scores = torch.zeros(2, 5, 5)
    scores[:, 2, 2], scores[:, 2, 3] = 0.9, 0.8
    scores[1, 2, 1] = UNSEEN
    kept, apart, sure = _peaks(scores)
    assert kept.tolist() == [True, False]
    assert sure.tolist() == pytest.approx([0.9])
    assert apart[0].tolist() == pytest.approx([0.4, 0.0], abs=1e-5)


def test_classical_methods_are_no_straw_men() -> None:
    """The strong one maps scenes, if roughly, that plain SIFT cannot; of one sensor's image, moved, SIFT solves all."""
    weak, strong, same = MatchScore(), MatchScore(), MatchScore()
    for seed in range(3):
        scene = make_scene(seed, "train")
        weak.add(*sift(scene), scene.affine)
        strong.add(*edge_templates(scene), scene.affine)
        grey = scene.optical.mean(-1)
        moved = np.stack([cv2.warpAffine(one, scene.affine, (256, 256)) for one in grey])
        same.add(*sift(dataclasses.replace(scene, radar=moved)), scene.affine)
    assert max(strong.corner) < 30 < min(weak.corner)
    assert same.solved == 1
