# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Training DeepWalk: in one process, or with embeddings in stores and gradients written back to them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from .descent import descend, first_rows
from .fetch import Clock, StoreRows, prefetched
from .offers import OfferFolder
from .store import shard_ids
from .train import write_progress, write_report
from .walks import WalkPlan, gradient, hide_links, link_auc
from .write_back import WriteBack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from .data import Floats, GraphSettings, Ints, Topology
    from .walks import Skips


@dataclass(frozen=True, kw_only=True)
class WalkSettings:
    """What a trainer is told; plain data.

    Attributes:
        folder: Where stores and trainers meet.
        out: Where its report goes.
        graph: Whose links are to be foretold.
        plan: Which walks.
        stores: Names of the stores of embeddings; none: this process keeps them.
        trainer: Its number.
        trainers: How many there are; each takes its share of an epoch's steps.
        width: Floats of a vector; a row has two.
        epochs: How many.
        rate: Of SGD.
        momentum: How much of a row's last step is in its next.
        depth: Steps fetched ahead.
        ahead: Steps whose gradients may be on their way to the stores.
        hidden: Share of the links that is kept for the test.
        check: Read and check each row's stamp.
    """

    folder: Path
    out: Path
    graph: GraphSettings
    plan: WalkPlan
    stores: tuple[str, ...] = ()
    trainer: int = 0
    trainers: int = 1
    width: int = 32
    epochs: int = 5
    rate: float = 0.3
    momentum: float = 0.5
    depth: int = 1
    ahead: int = 2
    hidden: float = 0.1
    check: bool = False

    def links(self) -> tuple[Topology, Ints, Ints]:
        """The graph that is walked, the hidden links, and as many pairs that are none."""
        return hide_links(self.graph.task().topology, self.hidden, self.graph.seed)

    def most_rows(self, nodes: int) -> int:
        """Room that a step's rows need, at most."""
        return min(nodes, self.plan.walks * self.plan.length + self.plan.pool)


@dataclass
class WalkReport:
    """What came of it."""

    losses: list[float] = field(default_factory=list)
    aucs: list[float] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)
    checked: int = 0
    retries: int = 0
    replaced: int = 0
    spans: list[tuple[str, int, float, float]] = field(default_factory=list)


def train_walks(settings: WalkSettings) -> None:
    """Train, say how it goes, and leave a report."""
    torch.set_num_threads(1)
    topology, links, others = settings.links()
    report = WalkReport()
    if settings.stores:
        _with_stores(settings, topology, report)
    else:
        _alone(settings, topology, links, others, report)
    write_report(settings.out, report.__dict__)


def _alone(settings: WalkSettings, topology: Topology, links: Ints, others: Ints, report: WalkReport) -> None:
    rows = first_rows(np.arange(topology.nodes), settings.width, settings.graph.seed)
    momentum = np.zeros_like(rows)
    clock = Clock(report.spans)
    for epoch in range(settings.epochs):
        begin, losses = time.perf_counter(), []
        for step, skips in enumerate(settings.plan.steps(topology, epoch)):
            started = time.perf_counter()
            loss, slopes = gradient(rows[skips.nodes], skips, settings.plan.negatives)
            descend(rows, momentum, skips.nodes, slopes, settings.rate, settings.momentum)
            losses.append(loss)
            clock.note("compute", step, started)
        report.losses += losses
        report.epoch_seconds.append(time.perf_counter() - begin)
        report.aucs.append(link_auc(rows, links, others))
        _say(settings, "one process", epoch, losses, report, f" AUC {report.aucs[-1]:.4f}")


def _with_stores(settings: WalkSettings, topology: Topology, report: WalkReport) -> None:
    clock = Clock(report.spans)
    most = settings.most_rows(topology.nodes)
    back = WriteBack(settings.trainer, 2 * settings.width, most, settings.ahead)
    source = StoreRows(
        OfferFolder(settings.folder),
        settings.stores,
        max_rows=most,
        slots=settings.depth + 2,
        check=settings.check,
        greet=back.greet,
    )
    ends = [shard_ids(topology.nodes, shard, len(settings.stores)).stop for shard in range(len(settings.stores))]
    done = 0
    for epoch in range(settings.epochs):
        begin, losses = time.perf_counter(), []
        for step, skips, rows in prefetched(_works(settings, topology, epoch), source, settings.depth, clock):
            started = time.perf_counter()
            loss, slopes = gradient(rows, skips, settings.plan.negatives)
            pushed = clock.note("compute", step, started)
            back.push(done, _shares(skips.nodes, slopes, ends), source.renew)
            clock.note("push", step, pushed)
            losses.append(loss)
            done += 1
        back.drain(source.renew)
        report.losses += losses
        report.epoch_seconds.append(time.perf_counter() - begin)
        _say(settings, f"trainer {settings.trainer}, rows of stores", epoch, losses, report, "")
        if settings.trainer == 0:
            write_progress(settings.folder, epoch + 1)
    report.checked, report.retries, report.replaced = source.checked, source.retries, source.replaced
    source.close()
    back.close()


def _works(settings: WalkSettings, topology: Topology, epoch: int) -> Iterator[tuple[Skips, Ints]]:
    for skips in settings.plan.steps(topology, epoch, settings.trainer, settings.trainers):
        yield skips, skips.nodes


def _shares(ids: Ints, slopes: Floats, ends: Sequence[int]) -> list[tuple[int, Ints, Floats]]:
    """What each store gets; `ids` ascend, and so do the stores' ends."""
    bounds = [0, *np.searchsorted(ids, ends)]
    return [
        (shard, ids[first:stop], slopes[first:stop])
        for shard, (first, stop) in enumerate(pairwise(bounds))
        if stop > first
    ]


def _say(settings: WalkSettings, who: str, epoch: int, losses: Sequence[float], report: WalkReport, more: str) -> None:
    print(
        f"graph: walks, {who}: epoch {epoch + 1}/{settings.epochs} loss {np.mean(losses):.4f}{more} "
        f"in {report.epoch_seconds[-1]:.1f} s",
        flush=True,
    )


def stored_rows(folder: Path, stores: Sequence[str], nodes: int, *, check: bool = True) -> Floats:
    """All rows of stores, in the order of the ids."""
    piece = 1 << 14
    source = StoreRows(OfferFolder(folder), stores, max_rows=piece, slots=1, check=check)
    parts = []
    for first in range(0, nodes, piece):
        fetch = source.begin(np.arange(first, min(nodes, first + piece)))
        parts.append(fetch.wait().copy())
        fetch.release()
    source.close()
    return np.concatenate(parts)
