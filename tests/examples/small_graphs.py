# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Graphs that are soon drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from graph import data
from graph.data import GraphSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from graph.data import Topology

NODES = 1 << 12


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> GraphSettings:
    settings = GraphSettings(kind="rmat", cache=tmp_path_factory.mktemp("graphs"), width=24, nodes=NODES, degree=8)
    settings.prepare()
    return settings


@pytest.fixture(scope="module")
def torus(tmp_path_factory: pytest.TempPathFactory) -> GraphSettings:
    """A graph whose links can be foretold: each node of a grid, and the four beside it."""
    cache = tmp_path_factory.mktemp("torus")
    places = np.arange(NODES).reshape(64, 64)
    ends = [np.roll(places, 1, axis).ravel() for axis in (0, 1)]
    topology = data.topology_of(NODES, np.tile(places.ravel(), 2), np.concatenate(ends))
    settings = GraphSettings(kind="rmat", cache=cache, width=24, nodes=NODES, degree=4)
    folder = cache / f"rmat-{NODES}-4-24-0"
    folder.mkdir()
    for name, array in (("indptr", topology.indptr), ("indices", topology.indices), ("labels", places.ravel() % 2)):
        np.save(folder / f"{name}.npy", array)
    return settings


def neighbour_sets(topology: Topology) -> list[set[int]]:
    return [set(topology.indices[a:b].tolist()) for a, b in zip(topology.indptr, topology.indptr[1:], strict=False)]
