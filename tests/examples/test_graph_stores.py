# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""examples/graph, small: real stores and trainers, of which stores are killed in mid-epoch."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from graph import whole
from graph.backlog import Backlog
from graph.descent import descend, first_rows
from graph.fetch import Clock, LocalRows, StoreRows
from graph.offers import OfferFolder
from graph.plot import plot_losses, plot_timelines
from graph.store import EmbeddingSettings, EmbeddingStore, FeatureSettings, shard_ids
from graph.train import SageSettings, SageTrainer
from graph.walk_train import WalkSettings, stored_rows
from graph.walks import WalkPlan, gradient, hide_links, link_auc
from graph.write_back import Push, WriteBack
from small_graphs import NODES, neighbour_sets

from kvtransfer import ConnectError, LeaseExpired, LeaseRef, PeerLost, PlanError, PullTimeout
from kvtransfer.rows import RowStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from graph.data import Floats, GraphSettings, Ints


EPOCHS = 8


def sage(graph: GraphSettings, shards: int, *, kill: bool = False) -> whole.Report:
    settings = SageSettings(
        folder=Path(), out=Path(), graph=graph, hidden=16, batch=32, epochs=6 if kill else 2, check=True
    )
    return whole.run_sage(settings, shards, parent=os.getpid(), kill=kill)


def here(graph: GraphSettings, epochs: int) -> list[float]:
    """The losses of the same training in this process, without fetching ahead."""
    settings = SageSettings(folder=Path(), out=Path(), graph=graph, hidden=16, batch=32)
    trainer = SageTrainer(settings, graph.task())
    source = LocalRows(graph.rows())
    losses = []
    for epoch in range(epochs):
        losses += trainer.epoch(epoch, source, Clock(), 0)
        trainer.test(source, 0)
    return losses


def test_losses_with_a_store_killed_in_mid_epoch_are_those_of_local_features(
    graph: GraphSettings, tmp_path: Path
) -> None:
    report = sage(graph, 3, kill=True)
    assert report["losses"] == here(graph, 6)
    assert report["replaced"] >= 1
    assert report["retries"] >= 1
    assert report["checked"] > 6 * NODES
    assert np.mean(report["losses"][-8:]) < np.mean(report["losses"][:8])
    plot_losses(tmp_path / "loss.png", "loss", {"stores": report})
    plot_timelines(tmp_path / "time.png", "time", {"stores": report})
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("loss.png", "time.png"))


def walk_settings(graph: GraphSettings, trainers: int) -> WalkSettings:
    plan = WalkPlan(walks=64, length=8, window=3, pool=64)
    return WalkSettings(
        folder=Path(), out=Path(), graph=graph, plan=plan, width=16, epochs=EPOCHS, trainers=trainers, check=True
    )


def test_embeddings_in_stores_foretell_links_as_those_of_one_process_do(torus: GraphSettings) -> None:
    settings = walk_settings(torus, trainers=2)
    report = whole.run_walks(settings, 2, parent=os.getpid(), kill=True, keep_every=4)
    alone = alone_auc(settings)
    assert report["replaced"] >= 1
    assert report["checked"] > 0
    assert report["aucs"][-1] > 0.6
    assert abs(report["aucs"][-1] - alone) < 0.05  # a small graph, and a store that forgot some steps


def alone_auc(settings: WalkSettings) -> float:
    topology, links, others = settings.links()
    rows = first_rows(np.arange(topology.nodes), settings.width, settings.graph.seed)
    momentum = np.zeros_like(rows)
    for epoch in range(settings.epochs):
        for skips in settings.plan.steps(topology, epoch):
            _, slopes = gradient(rows[skips.nodes], skips, settings.plan.negatives)
            descend(rows, momentum, skips.nodes, slopes, settings.rate, settings.momentum)
    return link_auc(rows, links, others)


class Bench:
    """Two embedding stores of this process, and what they should have."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = ("embeddings-0", "embeddings-1")
        self.settings = [
            EmbeddingSettings(
                folder=folder,
                name=name,
                nodes=100,
                shard=shard,
                shards=2,
                width=8,
                rate=0.1,
                momentum=0.5,
                max_rows=50,
                keep_every=1,
            )
            for shard, name in enumerate(self.names)
        ]
        self.stores = [EmbeddingStore(settings) for settings in self.settings]
        self.rows = first_rows(np.arange(100), 4, 0)
        self.momentum = np.zeros_like(self.rows)
        self.back = WriteBack(0, 8, 50, 2, patience=20)
        self.source = StoreRows(
            OfferFolder(folder), self.names, max_rows=50, slots=2, check=True, greet=self.back.greet
        )

    def push(self, step: int, ids: Ints, slopes: Floats) -> None:
        cut = int(np.searchsorted(ids, 50))
        shares = [(0, ids[:cut], slopes[:cut]), (1, ids[cut:], slopes[cut:])]
        self.back.push(step, [share for share in shares if len(share[1])], self.turn)
        descend(self.rows, self.momentum, ids, slopes, 0.1, 0.5)

    def turn(self) -> None:
        for store in self.stores:
            store.turn(0)
        self.source.renew()

    def close(self) -> None:
        self.source.close()
        self.back.close()
        for store in self.stores:
            store.__exit__(None, None, None)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def test_a_store_pulls_gradients_and_applies_each_once(bench: Bench) -> None:
    generator = np.random.default_rng(8)
    for step in range(8):
        ids = np.sort(generator.permutation(100)[: 5 + 4 * step])
        bench.push(step, ids, generator.standard_normal((len(ids), 8)).astype(np.float32))
        if step % 3 == 0:
            bench.turn()
    bench.back.drain(bench.turn)
    assert (stored_rows(bench.folder, bench.names, 100) == bench.rows).all()
    assert [store.pushes for store in bench.stores] == [8, 8]


def test_what_a_dead_store_had_not_applied_is_told_to_its_successor_once(bench: Bench) -> None:
    ids, slopes = np.arange(40, 60), np.ones((20, 8), np.float32)
    for step in range(2):
        bench.push(step, ids, slopes)
    # It dies between applying what it was told first, and saying so: the second kind of end is the harder one.
    dying = bench.stores[1]
    dying._landing.complete = lambda _push: None  # type: ignore[method-assign]
    deadline = time.monotonic() + 20
    while dying.pushes < 1 and time.monotonic() < deadline:
        dying.turn(0.1)
    applied = dying.pushes
    dying.__exit__(None, None, None)
    bench.stores[1] = EmbeddingStore(bench.settings[1])
    bench.back.drain(bench.turn)
    assert applied + bench.stores[1].pushes == 2
    assert (stored_rows(bench.folder, bench.names, 100) == bench.rows).all()


def failing(store: EmbeddingStore, monkeypatch: pytest.MonkeyPatch, step: int, *failures: Exception) -> None:
    """The store's pulls of that push fail so, one after the other."""
    store._backlog = Backlog(60.0, 0.0, 10)
    pull, left = store._landing.pull, list(failures)

    def fail(push: Push) -> tuple[Ints, Floats]:
        if push.step == step and left:
            raise left.pop(0)
        return pull(push)

    monkeypatch.setattr(store._landing, "pull", fail)


def test_a_push_that_could_not_be_pulled_is_asked_for_again_and_in_order(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = bench.stores[0]
    failing(store, monkeypatch, 0, PeerLost("gone"), PullTimeout("late"))
    for step in range(2):
        bench.push(step, np.arange(10), np.full((10, 8), 1 + step, np.float32))
    bench.back.drain(bench.turn)
    assert store.pushes == 2
    assert (stored_rows(bench.folder, bench.names, 100) == bench.rows).all()
    assert capsys.readouterr().out.count("push 0 of trainer 0 is asked for again: gone") == 1


def test_nothing_of_a_trainer_is_taken_after_what_was_not(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later push would say that all before it are applied: a successor would complete what never was."""
    failing(bench.stores[0], monkeypatch, 0, PlanError("too many"))
    for step in range(2):
        bench.push(step, np.arange(10), np.full((10, 8), 1 + step, np.float32))
    said, deadline = "", time.monotonic() + 20
    while "push 1" not in said and time.monotonic() < deadline:
        bench.stores[0].turn(0.1)
        said += capsys.readouterr().out
    assert "push 0 of trainer 0 is not taken: too many" in said
    assert "push 1 of trainer 0 is not taken: an earlier one was not" in said
    assert bench.stores[0].pushes == 0
    # A trainer that comes anew is heard.
    bench.back.greet(0, bench.source.peers[0])
    bench.back.drain(bench.turn)
    assert bench.stores[0].pushes == 2


def test_a_push_whose_lease_has_ended_keeps_no_later_one_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A successor is told again what its predecessor has completed a moment before."""
    failing(bench.stores[0], monkeypatch, 0, LeaseExpired("completed"))
    for step in range(2):
        bench.push(step, np.arange(10), np.ones((10, 8), np.float32))
    deadline = time.monotonic() + 20
    while not bench.stores[0].pushes and time.monotonic() < deadline:
        bench.stores[0].turn(0.1)
    assert bench.stores[0].pushes == 1


def test_memory_is_not_pulled_into_while_a_failed_pull_may_write_there(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Restless:
        """A failed pull that is never quiet."""

        quiet = False

    monkeypatch.setattr("graph.write_back._PULL", 0.1)
    landing: Any = bench.stores[0]._landing
    bench.push(0, np.arange(10), np.ones((10, 8), np.float32))
    landing._last = Restless()
    deadline = time.monotonic() + 20
    while not bench.stores[0]._backlog.holds(0) and time.monotonic() < deadline:
        bench.stores[0].turn(0.1)
    assert bench.stores[0].pushes == 0
    landing._last.quiet = True
    bench.back.drain(bench.turn)
    assert (stored_rows(bench.folder, bench.names, 100) == bench.rows).all()


def test_a_trainer_whose_connection_broke_is_connected_to_again(bench: Bench) -> None:
    bench.push(0, np.arange(10), np.ones((10, 8), np.float32))
    bench.back.drain(bench.turn)
    peer = bench.stores[0]._landing._trainers[0].peer
    assert peer is not None
    peer.close()
    bench.push(1, np.arange(10), np.ones((10, 8), np.float32))
    bench.back.drain(bench.turn)
    assert (stored_rows(bench.folder, bench.names, 100) == bench.rows).all()


def test_a_push_of_a_trainer_that_is_gone_is_given_up(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    store = bench.stores[0]
    store._backlog = Backlog(0.2, 0.0, 10)
    bench.push(0, np.arange(10), np.ones((10, 8), np.float32))
    bench.back.close()
    said, deadline = "", time.monotonic() + 20
    while "not taken" not in said and time.monotonic() < deadline:
        store.turn(0.1)
        said += capsys.readouterr().out
    assert said.count("push 0 of trainer 0 is asked for again") == 1
    assert "push 0 of trainer 0 is not taken" in said
    assert not len(store._backlog)


def test_a_backlog_has_a_bound_and_keeps_each_trainers_order() -> None:
    backlog = Backlog(patience=10, pause=2, most=3)
    pushes = [Push(trainer, step, LeaseRef(0, 1), 0, 1) for trainer, step in ((1, 0), (2, 0), (1, 1), (1, 2))]
    assert [backlog.put(push, 100) for push in pushes] == [True, True, True, False]
    assert backlog.take_due(101) == []
    assert [(push.trainer, push.step) for push in backlog.take_due(102)] == [(1, 0), (1, 1), (2, 0)]
    assert not backlog.holds(1)
    assert backlog.put(pushes[0], 110)
    assert not backlog.put(pushes[1], 110.1)
    backlog.clear(2)
    assert backlog.put(pushes[1], 111)


def test_notes_that_are_none_of_ours_and_gradients_that_are_no_numbers_change_nothing(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    peer = bench.source.peers[0]
    for body in (b"", b"X", b"G" + bytes(7), b"H\0\0\0\0not a descriptor"):
        peer.notify(body)
    bench.push(0, np.arange(3), np.full((3, 8), np.nan, np.float32))
    deadline = time.monotonic() + 20
    while "no numbers" not in (said := capsys.readouterr().out) and time.monotonic() < deadline:
        bench.turn()
    assert "push 0 of trainer 0 is not taken: it has gradients that are no numbers" in said
    assert (stored_rows(bench.folder, bench.names, 100) == first_rows(np.arange(100), 4, 0)).all()


def test_a_store_reads_only_its_rows_of_a_file(tmp_path: Path) -> None:
    shards = [shard_ids(103, shard, 4) for shard in range(4)]
    assert [node for ids in shards for node in ids] == list(range(103))
    settings = FeatureSettings(folder=tmp_path, name="f", nodes=103, shard=3, shards=4, width=2, parent=1 << 22)
    assert settings.stopped()  # nobody of this number has started it


def test_a_trainer_that_comes_while_a_store_is_dead_waits_for_its_successor(tmp_path: Path) -> None:
    rows = np.arange(32, dtype=np.float32).reshape(8, 4)
    offers = OfferFolder(tmp_path)
    with RowStore({"rows": rows}) as store:
        offers.put("store", store.offer().to_bytes())
    with RowStore({"rows": rows}) as successor:
        late = threading.Timer(0.3, offers.put, ("store", successor.offer().to_bytes()))
        late.start()
        source = StoreRows(OfferFolder(tmp_path), ["store"], max_rows=8, slots=1, patience=20)
        late.join()
        fetch = source.begin(np.arange(8))
        assert (fetch.wait() == rows).all()
        fetch.release()
        source.close()


def test_a_trainer_says_which_store_it_could_not_reach_when_none_succeeds_it(tmp_path: Path) -> None:
    offers = OfferFolder(tmp_path)
    with RowStore({"rows": np.zeros((8, 4), np.float32)}, name="gone") as store:
        offers.put("store", store.offer().to_bytes())
    with pytest.raises(ConnectError):
        StoreRows(OfferFolder(tmp_path), ["store"], max_rows=8, slots=1, patience=0.5)


def test_hidden_links_are_not_walked(graph: GraphSettings) -> None:
    whole_graph = graph.task().topology
    rest, links, others = hide_links(whole_graph, 0.1, 0)
    known, left = neighbour_sets(whole_graph), neighbour_sets(rest)
    assert all(b in known[a] and b not in left[a] for a, b in links.tolist())
    assert not any(b in known[a] for a, b in others.tolist())
    assert len(links) == len(others)


def test_loaders_of_pytorch_geometric_take_features_from_stores(graph: GraphSettings, tmp_path: Path) -> None:
    pytest.importorskip("torch_geometric", reason="torch-geometric is not installed; make graph installs it")
    from graph.pyg_store import CsrGraph, CsrSampler, KVFeatureStore  # noqa: PLC0415  (needs torch-geometric)
    from torch_geometric.loader import NodeLoader  # noqa: PLC0415
    from torch_geometric.nn import SAGEConv  # noqa: PLC0415

    task, rows = graph.task(), graph.rows()
    offers = OfferFolder(tmp_path)
    with RowStore({"rows": rows}) as store:
        offers.put("store", store.offer().to_bytes())
        source = StoreRows(OfferFolder(tmp_path), ["store"], max_rows=NODES, slots=2)
        features = KVFeatureStore(source, task.labels, graph.width)
        loader = NodeLoader(
            (features, CsrGraph(task.topology)),
            CsrSampler(task.topology, (5, 5)),
            input_nodes=torch.from_numpy(task.train),
            batch_size=64,
        )
        convolution = SAGEConv(graph.width, 4)
        near = neighbour_sets(task.topology)
        seen = 0
        for batch in loader:
            assert (batch.x.numpy() == rows[batch.n_id.numpy()]).all()
            assert (batch.y.numpy() == task.labels[batch.n_id.numpy()]).all()
            edges = batch.n_id[batch.edge_index].numpy()
            assert all(source in near[target] for source, target in edges.T.tolist())
            assert convolution(batch.x, batch.edge_index).shape == (len(batch.n_id), 4)
            seen += batch.batch_size
        assert seen == len(task.train)
        assert features.get_tensor_size(group_name=None, attr_name="x", index=None) == (NODES, graph.width)
        source.close()
