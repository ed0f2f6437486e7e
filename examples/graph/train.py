# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Training GraphSAGE on rows from anywhere."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from .fetch import Clock, LocalRows, Source, StoreRows, prefetched
from .offers import OfferFolder
from .rpc import RpcRows
from .sage import Sage, accuracy, seed_batches
from .sampler import Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .data import GraphSettings, Ints, Task
    from .sampler import Batch


# The number of the epoch whose draws are the test's.
TEST_EPOCH = 1 << 30


@dataclass(frozen=True, kw_only=True)
class SageSettings:
    """What a trainer is told; plain data.

    Attributes:
        folder: Where stores and trainers meet.
        out: Where its report goes, as JSON.
        graph: What it learns from.
        stores: Names of the stores of features; none: all are in its own memory.
        rpc: Take them from the processes of `rpc.py` instead.
        hidden: Width of the layer between.
        fans: Neighbours drawn for each node, those of the seeds first.
        batch: Seeds of a step.
        epochs: How many.
        rate: Adam's.
        depth: Steps fetched ahead; 0: each step waits for its rows.
        seed: Of all chance.
        check: Read and check each row's stamp.
    """

    folder: Path
    out: Path
    graph: GraphSettings
    stores: tuple[str, ...] = ()
    rpc: int = 0
    hidden: int = 64
    fans: tuple[int, ...] = (10, 10)
    batch: int = 1024
    epochs: int = 5
    rate: float = 0.01
    depth: int = 2
    seed: int = 0
    check: bool = False


@dataclass
class SageReport:
    """What came of it."""

    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)
    rows: int = 0
    checked: int = 0
    retries: int = 0
    replaced: int = 0
    spans: list[tuple[str, int, float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """What a step computes on, but for the rows."""

    seeds: Ints
    batch: Batch


class SageTrainer:
    """A model and what it is trained on."""

    def __init__(self, settings: SageSettings, task: Task) -> None:
        """Make the model; equal settings make equal ones."""
        torch.set_num_threads(1)
        self.settings, self.task = settings, task
        self.sampler = Sampler(task.topology)
        self.model = Sage((settings.graph.width, settings.hidden, task.classes), settings.seed)
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.rate)

    def works(self, nodes: Ints, epoch: int) -> Iterator[tuple[Step, Ints]]:
        """An epoch's steps, each with the ids of the rows that it wants."""
        for seeds, generator in seed_batches(nodes, self.settings.batch, epoch, self.settings.seed):
            batch = self.sampler.batch(seeds, self.settings.fans, generator)
            yield Step(seeds, batch), batch.nodes

    def epoch(self, epoch: int, source: Source, clock: Clock, depth: int) -> list[float]:
        """Train on each node once; the loss of each step."""
        losses = []
        for step, work, rows in prefetched(self.works(self.task.train, epoch), source, depth, clock):
            begin = time.perf_counter()
            self._optimizer.zero_grad()
            scores = self.model(torch.from_numpy(rows), work.batch)
            loss = functional.cross_entropy(scores, torch.from_numpy(self.task.labels[work.seeds]))
            loss.backward()
            self._optimizer.step()
            losses.append(float(loss.detach()))
            clock.note("compute", step, begin)
        return losses

    def test(self, source: Source, depth: int) -> float:
        """The share of the test nodes that is put into its class."""
        right = 0
        for _, work, rows in prefetched(self.works(self.task.test, TEST_EPOCH), source, depth, Clock()):
            right += accuracy(self.model, self.task, rows, work.batch, work.seeds)
        return right / max(len(self.task.test), 1)

    def most_rows(self) -> int:
        """Room that a step's rows need: half as much again as the largest of some."""
        counts = [len(ids) for (_, ids), _ in zip(self.works(self.task.train, 0), range(8), strict=False)]
        return min(self.task.topology.nodes, max(counts) * 3 // 2)


def source_of(settings: SageSettings, max_rows: int) -> Source:
    """Where these settings say that rows come from."""
    if settings.rpc:
        return RpcRows(settings.folder, settings.rpc, settings.graph.width)
    if not settings.stores:
        return LocalRows(settings.graph.rows())
    offers = OfferFolder(settings.folder)
    slots = settings.depth + 2
    return StoreRows(offers, settings.stores, max_rows=max_rows, slots=slots, check=settings.check)


def train(settings: SageSettings) -> None:
    """Train, say how it goes, and leave a report."""
    task = settings.graph.task()
    trainer = SageTrainer(settings, task)
    source = source_of(settings, trainer.most_rows())
    report = SageReport()
    clock = Clock(report.spans)
    kind = "stores" if settings.stores else "rpc" if settings.rpc else "own memory"
    for epoch in range(settings.epochs):
        begin = time.perf_counter()
        losses = trainer.epoch(epoch, source, clock, settings.depth)
        report.epoch_seconds.append(time.perf_counter() - begin)
        report.losses += losses
        report.accuracies.append(trainer.test(source, settings.depth))
        print(
            f"graph: sage, rows of {kind}: epoch {epoch + 1}/{settings.epochs} loss {np.mean(losses):.4f} "
            f"accuracy {report.accuracies[-1]:.4f} in {report.epoch_seconds[-1]:.1f} s",
            flush=True,
        )
        write_progress(settings.folder, epoch + 1)
    if isinstance(source, StoreRows):
        report.checked, report.retries, report.replaced = source.checked, source.retries, source.replaced
    source.close()
    write_report(settings.out, report.__dict__)


def write_progress(folder: Path, done: int) -> None:
    """Say how far it is, to who looks into the folder."""
    part = folder / ".progress"
    part.write_text(str(done))
    part.replace(folder / "progress")


def write_report(out: Path, fields: object) -> None:
    """Leave a report, whole or not at all."""
    part = out.with_suffix(".part")
    part.write_text(json.dumps(fields))
    part.replace(out)
