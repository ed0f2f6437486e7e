# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""examples/graph without trainings: graphs, samplers, the check of rows, what is fetched ahead."""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from graph import data
from graph.data import GraphSettings
from graph.fetch import Clock, LocalRows, StoreRows, prefetched
from graph.offers import OfferFolder
from graph.sampler import Sampler, neighbours, walks, window_pairs
from graph.stamps import WrongRowError, check_stamps, stamps_of
from graph.walks import WalkPlan, gradient, link_auc
from small_graphs import NODES, neighbour_sets

from kvtransfer.rows import RowStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from graph.data import Ints


def test_a_graph_is_undirected_and_simple(graph: GraphSettings) -> None:
    near = neighbour_sets(graph.task().topology)
    assert sum(map(len, near)) == len(graph.task().topology.indices) > 4 * NODES
    assert all(node not in some and all(node in near[other] for other in some) for node, some in enumerate(near))


def test_a_graph_is_drawn_once_and_the_same_again(graph: GraphSettings, tmp_path: Path) -> None:
    again = GraphSettings(kind="rmat", cache=tmp_path, width=24, nodes=NODES, degree=8)
    again.prepare()
    assert (again.task().labels == graph.task().labels).all()
    ids = np.array([3, data.PIECE - 1, data.PIECE, 5 * data.PIECE + 7])
    assert (data.drawn_rows(ids, 8, 0) == np.stack([data.drawn_rows(ids[i : i + 1], 8, 0)[0] for i in range(4)])).all()
    with pytest.raises(ValueError, match="expected a power of two"):
        GraphSettings(kind="rmat", cache=tmp_path, nodes=1000).prepare()


def test_wordnets_files_are_read(tmp_path: Path) -> None:
    """Four files of the format, with pointers from an adjective that is a satellite to a noun, and back to a verb."""
    head = "  1 This software and database is being provided to you\n"
    lines = {
        "noun": '00000100 03 n 01 thing 0 001 @ 00000200 v 0000 | a thing, "like this"  \n',
        "verb": "00000200 29 v 02 do 0 act 1 000 01 + 02 00 | do a thing  \n",
        "adj": "00000300 00 s 01 odd 0 002 & 00000100 n 0000 ^ 00000300 s 0101 | like an odd thing  \n",
        "adv": "00000400 02 r 01 oddly 0 000 | in an odd way  \n",
    }
    for name, line in lines.items():
        (tmp_path / f"data.{name}").write_text(head + line)
    parts = data._parse(tmp_path, 64)
    assert parts["labels"].tolist() == [3, 29, 0, 2]
    assert parts["indptr"].tolist() == [0, 2, 3, 4, 4]
    assert parts["indices"].tolist() == [1, 2, 0, 0]
    assert np.allclose(np.linalg.norm(parts["rows"], axis=1), 1)
    likeness = parts["rows"] @ parts["rows"].T
    assert likeness[0, 1] > likeness[0, 3]


def test_sampled_neighbours_are_neighbours_and_distinct(graph: GraphSettings) -> None:
    topology = graph.task().topology
    near = neighbour_sets(topology)
    nodes = np.arange(NODES)
    drawn, offsets = neighbours(topology, nodes, 5, np.random.default_rng(0))
    for node in nodes:
        mine = drawn[offsets[node] : offsets[node + 1]].tolist()
        assert len(set(mine)) == len(mine) == min(5, len(near[node]))
        assert near[node].issuperset(mine)


def test_each_neighbour_is_as_likely_as_any_other(graph: GraphSettings) -> None:
    topology = graph.task().topology
    hub = int(np.argmax(topology.degrees))
    degree = int(topology.degrees[hub])
    generator = np.random.default_rng(1)
    drawn, _ = neighbours(topology, np.full(20 * degree, hub), 10, generator)
    counts = np.bincount(np.searchsorted(topology.indices[topology.indptr[hub] : topology.indptr[hub + 1]], drawn))
    assert len(counts) == degree > 50
    assert abs(counts - 200).max() < 90  # six standard deviations of 200 draws


def test_a_batch_names_each_node_once_and_its_layers_lead_to_the_seeds(graph: GraphSettings) -> None:
    topology = graph.task().topology
    near = neighbour_sets(topology)
    sampler = Sampler(topology)
    seeds = np.random.default_rng(2).permutation(NODES)[:64]
    for _ in range(2):  # it leaves nothing behind
        batch = sampler.batch(seeds, (4, 3), np.random.default_rng(3))
        assert (batch.nodes[:64] == seeds).all()
        assert len(set(batch.nodes.tolist())) == len(batch.nodes)
        outer, inner = batch.layers
        assert inner.targets == 64
        assert outer.targets == 64 + len(set(inner.sources.tolist()) - set(range(64)))
        for layer in batch.layers:
            for target in range(layer.targets):
                sources = batch.nodes[layer.sources[layer.offsets[target] : layer.offsets[target + 1]]]
                assert near[int(batch.nodes[target])].issuperset(sources.tolist())


def test_walks_go_along_edges(graph: GraphSettings) -> None:
    topology = graph.task().topology
    near = neighbour_sets(topology)
    path = walks(topology, np.arange(NODES), 6, np.random.default_rng(4))
    assert all(b in near[a] or (a == b and not near[a]) for row in path.tolist() for a, b in pairwise(row))
    centres, contexts = window_pairs(np.array([[0, 1, 2, 1]]), 2)
    pairs = sorted(zip(centres.tolist(), contexts.tolist(), strict=True))
    assert pairs == [(0, 1), (0, 2), (1, 0), (1, 2), (1, 2), (2, 0), (2, 1), (2, 1)]


def test_the_gradient_is_that_of_the_loss() -> None:
    """By differences, with pairs of each row once: their mean is then their sum."""
    generator = np.random.default_rng(5)
    rows = generator.standard_normal((6, 8)).astype(np.float32)
    work = next(WalkPlan(walks=1, pool=2).steps(data.topology_of(6, np.arange(5), np.arange(1, 6)), 0))
    work = type(work)(np.arange(6), np.array([0, 1]), np.array([2, 3]), np.array([4, 5]))
    loss, slopes = gradient(rows, work, 2)
    for row, column in ((0, 1), (1, 3), (2, 4), (3, 7)):
        moved = rows.copy()
        moved[row, column] += 1e-2
        assert slopes[row, column] == pytest.approx((gradient(moved, work, 2)[0] - loss) * 2 / 1e-2, abs=2e-2)
    assert (slopes[[0, 1], 4:] == 0).all()


def test_links_are_foretold_by_rows_that_know_them() -> None:
    width, pairs = 4, np.array([[0, 1], [2, 3]])
    rows = np.zeros((6, 2 * width), np.float32)
    rows[[0, 1], 0] = rows[[0, 1], width] = 1
    rows[[2, 3], 1] = rows[[2, 3], width + 1] = 1
    others = np.array([[0, 2], [1, 3], [4, 5]])
    assert link_auc(rows, pairs, others) == 1
    assert link_auc(rows, others, pairs) == 0
    assert link_auc(np.zeros_like(rows), pairs, others) == 0.5


def test_a_wrong_row_is_seen() -> None:
    ids = np.arange(10, 20)
    rows = np.random.default_rng(6).standard_normal((10, 5)).astype(np.float32)
    stamps = stamps_of(ids, rows)
    check_stamps(ids, rows, stamps)
    torn = rows.copy()
    torn[3, 4] = np.nextafter(torn[3, 4], 9)
    with pytest.raises(WrongRowError, match="1 of 10 rows are wrong: that of id 13 is torn"):
        check_stamps(ids, torn, stamps)
    swapped = rows.copy()
    swapped[7, [0, 1]] = swapped[7, [1, 0]]
    with pytest.raises(WrongRowError, match="id 17 is torn"):
        check_stamps(ids, swapped, stamps)
    with pytest.raises(WrongRowError, match="id 10 is another id's"):
        check_stamps(ids, rows[::-1], stamps[::-1])


def write_and_read(tmp_path: Path, generations: int) -> int:
    """Rows that are read while they are rewritten; how many were checked."""
    ids = np.arange(2000)
    offers = OfferFolder(tmp_path / "meet")
    generator = np.random.default_rng(7)
    values = generator.standard_normal((2000, 256)).astype(np.float32)
    with RowStore({"rows": values, "stamps": stamps_of(ids, values)}, generations=generations) as store:
        offers.put("store", store.offer().to_bytes())
        stop = threading.Event()

        def write() -> None:
            change = 0
            while not stop.is_set():
                change += 1
                rows, stamps = store.writable("rows"), store.writable("stamps")
                rows[:] = values + change
                stamps[:] = stamps_of(ids, rows)
                if generations == 2:
                    offers.put("store", store.swap().to_bytes())

        source = StoreRows(OfferFolder(tmp_path / "meet"), ["store"], max_rows=2000, slots=2, check=True)
        writer = threading.Thread(target=write)
        writer.start()
        try:
            deadline = time.monotonic() + 3
            while source.checked < 100_000 and time.monotonic() < deadline:
                fetch = source.begin(ids)
                try:
                    fetch.wait()
                finally:
                    fetch.release()
        finally:
            stop.set()
            writer.join()
            source.close()
        return source.checked


def test_rows_that_change_are_whole_with_two_generations(tmp_path: Path) -> None:
    assert write_and_read(tmp_path, generations=2) > 0


def test_rows_that_are_written_while_they_are_offered_are_seen_to_be_torn(tmp_path: Path) -> None:
    """The check of the test before can fail: with one copy, and no `withdraw`, it does."""
    with pytest.raises(WrongRowError, match="torn"):
        write_and_read(tmp_path, generations=1)


def test_what_goes_wrong_ahead_is_raised_where_steps_are_used() -> None:
    def works() -> Iterator[tuple[int, Ints]]:
        yield 0, np.array([1])
        raise ValueError("no more")

    source = LocalRows(np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match="no more"):
        list(prefetched(works(), source, 2, Clock()))


def test_slots_are_given_back_whoever_breaks_off(tmp_path: Path) -> None:
    rows = np.arange(20, dtype=np.float32).reshape(10, 2)
    offers = OfferFolder(tmp_path)
    with RowStore({"rows": rows}) as store:
        offers.put("store", store.offer().to_bytes())
        source = StoreRows(OfferFolder(tmp_path), ["store"], max_rows=4, slots=4)
        for _ in range(6):
            for step, work, got in prefetched(((i, np.array([i, 0])) for i in range(10)), source, 2, Clock()):
                assert (got == rows[[work, 0]]).all()
                if step == 3:
                    break
        source.close()
