# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The whole example: GraphSAGE and DeepWalk with rows in stores, beside the same with rows in their own memory."""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .compare import CompareSettings, compare
from .launch import RayLauncher, SpawnLauncher
from .rpc import serve_rpc
from .store import EmbeddingSettings, FeatureSettings, serve_embeddings, serve_features
from .train import SageSettings, train
from .walk_train import WalkSettings, stored_rows, train_walks
from .walks import link_auc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .data import GraphSettings
    from .launch import Launcher

Report = dict[str, Any]
SECONDS = 1800.0  # for one training


@contextmanager
def launcher(ray: bool) -> Iterator[tuple[Path, Launcher]]:
    """A folder to meet in, and what starts processes; both are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="kvd-graph-") as name:
        folder = Path(name)
        started = RayLauncher(folder, str(Path(__file__).resolve().parents[1])) if ray else SpawnLauncher(folder)
        try:
            yield folder, started
        finally:
            started.stop()


def start_feature_stores(
    started: Launcher, folder: Path, graph: GraphSettings, nodes: int, shards: int, *, parent: int, stamped: bool
) -> tuple[str, ...]:
    """Stores of a graph's features; their names."""
    names = tuple(f"features-{shard}" for shard in range(shards))
    for shard, name in enumerate(names):
        settings = FeatureSettings(
            folder=folder,
            name=name,
            nodes=nodes,
            shard=shard,
            shards=shards,
            width=graph.width,
            seed=graph.seed,
            stamped=stamped,
            parent=parent,
            rows_file=graph.rows_file and graph.rows_file.resolve(),
        )
        started.start(name, serve_features, settings, again=True)
    return names


def start_embedding_stores(
    started: Launcher, settings: WalkSettings, nodes: int, shards: int, *, parent: int, keep_every: int
) -> tuple[str, ...]:
    """Stores of the embeddings that these trainers learn; their names."""
    names = tuple(f"embeddings-{shard}" for shard in range(shards))
    for shard, name in enumerate(names):
        store = EmbeddingSettings(
            folder=settings.folder,
            name=name,
            nodes=nodes,
            shard=shard,
            shards=shards,
            width=2 * settings.width,
            seed=settings.graph.seed,
            stamped=True,
            parent=parent,
            rate=settings.rate,
            momentum=settings.momentum,
            max_rows=settings.most_rows(nodes),
            keep_every=keep_every,
        )
        started.start(name, serve_embeddings, store, again=True)
    return names


def run_sage(settings: SageSettings, shards: int, *, parent: int, ray: bool = False, kill: bool = False) -> Report:
    """Train with features in so many stores, 0: in the trainer's memory. `kill`: one store dies in the second epoch."""
    nodes = settings.graph.task().topology.nodes
    with launcher(ray) as (folder, started):
        stores: tuple[str, ...] = ()
        if shards:
            stores = start_feature_stores(
                started, folder, settings.graph, nodes, shards, parent=parent, stamped=settings.check
            )
        mine = replace(settings, folder=folder, out=folder / "sage.json", stores=stores)
        started.start("trainer", train, mine)
        if kill and shards:
            _kill_in_second_epoch(folder, started, stores[-1], "trainer")
        started.join("trainer", SECONDS)
        return _report(mine.out)


def run_walks(
    settings: WalkSettings, shards: int, *, parent: int, ray: bool = False, kill: bool = False, keep_every: int = 64
) -> Report:
    """Train with embeddings in so many stores, 0: in one process. `kill`: one store dies in the second epoch."""
    topology, links, others = settings.links()
    with launcher(ray) as (folder, started):
        if not shards:
            alone = replace(settings, folder=folder, out=folder / "walks.json", stores=(), trainers=1)
            started.start("trainer", train_walks, alone)
            started.join("trainer", SECONDS)
            return _report(alone.out)
        mine = replace(settings, folder=folder)
        stores = start_embedding_stores(started, mine, topology.nodes, shards, parent=parent, keep_every=keep_every)
        outs = [folder / f"walks-{number}.json" for number in range(settings.trainers)]
        for number, out in enumerate(outs):
            one = replace(mine, stores=stores, trainer=number, out=out)
            started.start(f"trainer-{number}", train_walks, one)
        if kill:
            _kill_in_second_epoch(folder, started, stores[-1], "trainer-0")
        for number in range(settings.trainers):
            started.join(f"trainer-{number}", SECONDS)
        reports = [_report(out) for out in outs]
        rows = stored_rows(folder, stores, topology.nodes)
        total = {name: sum(report[name] for report in reports) for name in ("checked", "retries", "replaced")}
        return {**reports[0], **total, "aucs": [link_auc(rows, links, others)]}


def run_compare(settings: SageSettings, shards: int, rounds: int, *, parent: int) -> Report:
    """Epochs with rows from everywhere in turns; see `compare.py`."""
    nodes = settings.graph.task().topology.nodes
    with launcher(ray=False) as (folder, started):
        stores = start_feature_stores(started, folder, settings.graph, nodes, shards, parent=parent, stamped=False)
        for shard in range(shards):
            served = FeatureSettings(
                folder=folder,
                name=f"rpc-{shard}",
                nodes=nodes,
                shard=shard,
                shards=shards,
                width=settings.graph.width,
                rows_file=settings.graph.rows_file,
                parent=parent,
            )
            started.start(served.name, serve_rpc, served)
        mine = replace(settings, folder=folder, out=folder / "compare.json", stores=stores)
        started.start("trainer", compare, CompareSettings(sage=mine, shards=shards, rounds=rounds))
        started.join("trainer", SECONDS)
        return _report(mine.out)


def _kill_in_second_epoch(folder: Path, started: Launcher, name: str, trainer: str) -> None:
    """Once the first epoch is done, and a little later."""
    deadline = time.monotonic() + SECONDS
    while not (folder / "progress").exists():
        if not started.running(trainer):
            started.join(trainer, 1)  # says how it ended
        if time.monotonic() > deadline:
            raise TimeoutError(f"no epoch was done within {SECONDS:g} s")
        time.sleep(0.02)
    time.sleep(0.05)
    print(f"graph: {name} is killed", flush=True)
    started.kill(name)


def _report(out: Path) -> Report:
    report: Report = json.loads(out.read_text())
    return report
