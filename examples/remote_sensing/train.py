# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Training on scenes that are made as it goes, by a process beside it; no scene comes twice."""

from __future__ import annotations

import copy
import math
import time
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

from .features import SENSORS, composite, find_keypoints, images_of
from .model import ALL, Features, MatchingModel, Parts, describe, tokens_of
from .scenes import SEARCH, make_scene, warp
from .ships import moved_map, ship_loss
from .world import TILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from .scenes import Doubles

POSITIVE = 6.0  # pixels: a candidate so near the true place is a right one, and its offset is learned
OFF = 1.3  # pixels: how far, in either direction, an estimated map may be off; ships are fused by one
SOFTNESS = 2.0  # pixels: how fast candidates count less with their distance from the true place


class Example(NamedTuple):
    """One scene as training sees it; of the optical and the radar image where there are two."""

    images: tuple[Tensor, Tensor]
    points: tuple[Tensor, Tensor]
    boxes: tuple[Tensor, Tensor]
    affine: Tensor


def make_example(seed: int, split: str = "train") -> Example:
    """The scene of a seed with its keypoints."""
    scene = make_scene(seed, split)
    images = [images_of(scene, sensor) for sensor in SENSORS]
    points = [find_keypoints(composite(one, sensor))[0] for one, sensor in zip(images, SENSORS, strict=True)]
    a, b = map(torch.from_numpy, images)
    p, q = (torch.from_numpy(one[:, :2].copy()) for one in points)
    boxes = torch.from_numpy(scene.boxes), torch.from_numpy(scene.radar_boxes)
    return Example((a, b), (p, q), boxes, torch.from_numpy(scene.affine))


class Examples(IterableDataset[Example]):
    """The scenes of the seeds from `first` on."""

    def __init__(self, first: int, count: int) -> None:
        self.seeds = range(first, first + count)

    def __iter__(self) -> Iterator[Example]:
        """Every one once."""
        cv2.setNumThreads(1)
        return map(make_example, self.seeds)


def loss_of(
    model: MatchingModel, example: Example, on: Parts, jitter: np.random.Generator, *, matches_too: bool = True
) -> dict[str, Tensor]:
    """The parts of the loss.

    Args:
        model: Is being trained.
        example: A scene.
        on: What is switched on.
        jitter: How far the map by which ships are fused is off, as an estimate would be.
        matches_too: Those of matches as well; they are learned sooner than ships, of which a scene has few.
    """
    seen = [model.encoders[sensor](images) for sensor, images in zip(SENSORS, example.images, strict=True)]
    losses = _match_losses(model, example, on, seen) if matches_too else {}
    shaken = example.affine.numpy() + np.array([[0, 0, 1.0], [0, 0, 1.0]]) * jitter.normal(0, OFF, (2, 1))
    return losses | _ship_losses(model, example, on, seen, shaken)


def _match_losses(model: MatchingModel, example: Example, on: Parts, seen: Sequence[Features]) -> dict[str, Tensor]:
    described = [tokens_of(describe(one, points, TILE)) for one, points in zip(seen, example.points, strict=True)]
    optical, radar = example.points
    near = torch.cdist(optical, radar) < SEARCH
    tokens, wide = zip(*described, strict=True)
    scores = model.matcher(tokens, wide, example.points, near, on)
    truth = torch.from_numpy(warp(optical.numpy(), example.affine.numpy())).float()
    apart = torch.cdist(truth, radar)
    weight = torch.where((apart < POSITIVE) & near, torch.exp(-apart.square() / (2 * SOFTNESS**2)), 0)
    pairs = torch.nonzero(weight > 0)
    off = model.matcher.offsets(scores, pairs[:, 0], pairs[:, 1])
    wanted = truth[pairs[:, 0]] - radar[pairs[:, 1]]
    return {
        "match": (_cross_entropy(scores.rows, weight) + _cross_entropy(scores.columns, weight.T)) / 2,
        "cosine": (_contrast(scores.cosine, weight) + _contrast(scores.cosine.T, weight.T)) / 2,
        "offset": functional.smooth_l1_loss(off, wanted) if len(pairs) else off.sum(),
    }


def _ship_losses(
    model: MatchingModel, example: Example, on: Parts, features: Sequence[Features], affine: Doubles
) -> dict[str, Tensor]:
    ships = model.ships
    seen = [ships.see(k, features[k].maps, temporal=on.temporal) for k in (0, 1)]
    told = [*(ships.tell(k, seen[k]) for k in (0, 1)), ships.tell_fused(seen[0], moved_map(seen[1], affine, TILE))]
    boxes = (*example.boxes, example.boxes[0])
    return {name: ship_loss(said, one) for name, said, one in zip((*SENSORS, "fused"), told, boxes, strict=True)}


WEIGHTS = {"match": 1.0, "cosine": 0.4, "offset": 0.5, "optical": 0.25, "radar": 0.25, "fused": 0.35}


def _cross_entropy(scores: Tensor, weight: Tensor) -> Tensor:
    """Of rows whose last class is "none"; `weight` says how right the others are."""
    total = weight.sum(1, keepdim=True)
    target = torch.cat([weight / total.clamp(min=1e-9), (total == 0).float()], 1)
    return -(target * scores.log_softmax(1)).sum(1).mean()


def _contrast(cosine: Tensor, weight: Tensor) -> Tensor:
    """Of rows that have a right candidate, its cosine against all others'."""
    some = weight.sum(1) > 0
    if not some.any():
        return cosine.sum() * 0
    target = weight[some] / weight[some].sum(1, keepdim=True)
    return -(target * (cosine[some] * 12).log_softmax(1)).sum(1).mean()


def train(
    steps: int,
    say: Callable[[str], None],
    *,
    seed: int = 0,
    threads: int = 1,
    rate: float = 3e-3,
    on: Parts | None = None,
) -> tuple[MatchingModel, list[dict[str, float]]]:
    """A model, and the losses of its training averaged over every fiftieth part.

    Args:
        steps: Scenes that it sees.
        say: Called with lines of progress.
        seed: Of weights and scenes.
        threads: Of torch; the process that makes scenes takes a second processor.
        rate: The highest learning rate.
        on: These parts and no others; None lets each be missing now and then, so that ablations need no other weights.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    random = np.random.default_rng(seed)
    model = MatchingModel()
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.15)
    history: list[dict[str, float]] = []
    recent: list[dict[str, float]] = []
    started = time.monotonic()
    # Spawned: a fork would take along what threads of this process hold.
    loader = DataLoader(
        Examples(seed * 1_000_000, steps),
        batch_size=None,
        num_workers=1,
        prefetch_factor=4,
        timeout=120,
        multiprocessing_context="spawn",
    )
    for step, example in enumerate(loader, 1):
        parts = on or Parts(temporal=random.random() > 0.15, fusion=random.random() > 0.15)
        losses = loss_of(model, example, parts, random, matches_too=step % 2 == 1)
        total = sum((WEIGHTS[name] * loss for name, loss in losses.items()), torch.zeros(()))
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        schedule.step()
        _follow(average, model, min(0.995, 1 - 1 / (1 + step / 10)))
        recent.append({name: float(loss.detach()) for name, loss in losses.items()})
        if step % max(1, steps // 50) == 0:
            means = {name: float(np.mean([one[name] for one in recent if name in one] or [0])) for name in WEIGHTS}
            if not all(map(math.isfinite, means.values())):
                raise FloatingPointError(f"the loss is not finite any more at step {step}: {means}")
            history.append({"step": step, "seconds": time.monotonic() - started, **means})
            recent.clear()
            shown = " ".join(f"{name} {value:.2f}" for name, value in means.items())
            say(f"step {step}/{steps} {history[-1]['seconds']:.0f} s: {shown}")
    average.eval()
    return average, history


def _follow(average: MatchingModel, model: MatchingModel, keep: float) -> None:
    """The average of the weights is steadier than the last ones."""
    with torch.no_grad():
        for mean, weight in zip(average.parameters(), model.parameters(), strict=True):
            mean.lerp_(weight, 1 - keep)


def save(model: MatchingModel, path: Path) -> None:
    """Weights only: nothing in the file is code."""
    torch.save(model.state_dict(), path)


def load(path: Path) -> MatchingModel:
    """A trained model, ready to be used.

    Raises:
        FileNotFoundError: Nothing was trained to there.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; `make matching`, or `train`, writes it")
    model = MatchingModel()
    model.load_state_dict(torch.load(path, weights_only=True))
    model.eval()
    return model


__all__ = ["ALL", "Example", "load", "loss_of", "make_example", "save", "train"]
