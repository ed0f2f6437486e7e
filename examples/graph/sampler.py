# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Neighbours and random walks of many nodes at a time, on a graph in CSR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .data import Ints, Topology


@dataclass(frozen=True)
class Layer:
    """Edges that carry a batch one step: target i has sources `sources[offsets[i]:offsets[i + 1]]`.

    Sources are places in the batch's node list; so are targets, which are its first ones.
    """

    sources: Ints
    offsets: Ints

    @property
    def targets(self) -> int:
        """How many there are."""
        return len(self.offsets) - 1


@dataclass(frozen=True)
class Batch:
    """What one step needs: all nodes, each once, those asked for first; and a layer for each step, outermost first."""

    nodes: Ints
    layers: tuple[Layer, ...]


class Sampler:
    """Draws neighbours; one per thread, as it keeps an array with a place for each node."""

    def __init__(self, topology: Topology) -> None:
        """Make one for a graph."""
        self._topology = topology
        self._place = np.full(topology.nodes, -1, np.int64)

    def batch(self, seeds: Ints, fans: Sequence[int], generator: np.random.Generator) -> Batch:
        """The nodes around `seeds` that a network of `len(fans)` layers looks at.

        Args:
            seeds: Distinct node ids.
            fans: Neighbours drawn for each node, those of the seeds first.
            generator: Where chance comes from.
        """
        nodes = np.asarray(seeds, np.int64)
        layers = []
        place = self._place
        place[nodes] = np.arange(len(nodes))
        for fan in fans:
            drawn, offsets = neighbours(self._topology, nodes, fan, generator)
            fresh = drawn[place[drawn] < 0]
            # Of several equal ones the last to be written stands.
            place[fresh] = np.arange(len(fresh))
            fresh = fresh[place[fresh] == np.arange(len(fresh))]
            place[fresh] = len(nodes) + np.arange(len(fresh))
            nodes = np.concatenate([nodes, fresh])
            layers.append(Layer(place[drawn], offsets))
        place[nodes] = -1
        return Batch(nodes, tuple(reversed(layers)))


def neighbours(topology: Topology, nodes: Ints, fan: int, generator: np.random.Generator) -> tuple[Ints, Ints]:
    """Up to `fan` distinct neighbours of each node: all of them, or every (degree / fan)-th from a random one on.

    Each neighbour of a node is as likely to be drawn as any other, but not independently: those that stand together in
    the list seldom come together.

    Returns:
        The neighbours of the first node, of the second, ...; and where those of each begin, with the end.
    """
    starts = topology.indptr[nodes]
    degrees = topology.indptr[nodes + 1] - starts
    counts = np.minimum(degrees, fan)
    offsets = np.zeros(len(nodes) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    rank = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
    shift = np.where(degrees > fan, generator.random(len(nodes)), 0.0)
    step = degrees / np.maximum(counts, 1)
    chosen = ((rank + np.repeat(shift, counts)) * np.repeat(step, counts)).astype(np.int64)
    # Rounding must not lead into the next node's list.
    chosen = np.minimum(chosen, np.repeat(degrees, counts) - 1)
    return topology.indices[np.repeat(starts, counts) + chosen].astype(np.int64), offsets


def walks(topology: Topology, starts: Ints, length: int, generator: np.random.Generator) -> Ints:
    """Random walks of `length` nodes, one from each start, as (walks, length); who has no neighbour stays."""
    path = np.empty((len(starts), length), np.int64)
    here = np.asarray(starts, np.int64)
    path[:, 0] = here
    for step in range(1, length):
        first = topology.indptr[here]
        degree = topology.indptr[here + 1] - first
        chosen = (generator.random(len(here)) * degree).astype(np.int64)
        # A last node without neighbours has its list at the end of all: nothing stands there.
        there = topology.indices[np.minimum(first + chosen, len(topology.indices) - 1)]
        here = np.where(degree > 0, there, here)
        path[:, step] = here
    return path


def window_pairs(path: Ints, window: int) -> tuple[Ints, Ints]:
    """Every two different nodes of a walk at most `window` steps apart, in both directions."""
    centres, contexts = [], []
    for distance in range(1, min(window, path.shape[1] - 1) + 1):
        left, right = path[:, :-distance].ravel(), path[:, distance:].ravel()
        centres += [left, right]
        contexts += [right, left]
    centre, context = np.concatenate(centres), np.concatenate(contexts)
    differ = centre != context
    return centre[differ], context[differ]
