# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""DeepWalk: skip-gram with negative sampling over random walks, and how well its vectors foretell links.

A node's row has two vectors, side by side: what it is as a centre, and what it is as a context.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from .data import Topology, edges_of, topology_of
from .sampler import walks, window_pairs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .data import Floats, Ints


@dataclass(frozen=True)
class Skips:
    """One step's work: nodes, each once; pairs of a centre and its context, and negatives, as places in them."""

    nodes: Ints
    centres: Ints
    contexts: Ints
    pool: Ints


@dataclass(frozen=True)
class WalkPlan:
    """What walks are made, and what of them is learnt from.

    Attributes:
        walks: Walks of a step.
        length: Nodes of a walk.
        window: Steps that two nodes of a pair may be apart.
        pool: Negatives of a step, which all its pairs share.
        negatives: What they count for, per pair.
        seed: Of all chance.
    """

    walks: int = 512
    length: int = 10
    window: int = 3
    pool: int = 256
    negatives: int = 5
    seed: int = 0

    def steps(self, topology: Topology, epoch: int, trainer: int = 0, trainers: int = 1) -> Iterator[Skips]:
        """The steps of one of several trainers in an epoch, in which each node begins one walk."""
        order = np.random.default_rng((self.seed, 7, epoch)).permutation(topology.nodes)
        commonness = np.cumsum(topology.degrees**0.75)
        place = np.zeros(topology.nodes, np.int64)
        for number, first in enumerate(range(0, len(order), self.walks)):
            if number % trainers == trainer:
                generator = np.random.default_rng((self.seed, 8, epoch, number))
                path = walks(topology, order[first : first + self.walks], self.length, generator)
                centres, contexts = window_pairs(path, self.window)
                drawn = np.searchsorted(commonness, generator.random(self.pool) * commonness[-1], side="right")
                nodes = np.unique(np.concatenate([path.ravel(), drawn]))
                place[nodes] = np.arange(len(nodes))
                yield Skips(nodes, place[centres], place[contexts], place[drawn])

    def count(self, nodes: int) -> int:
        """Steps of an epoch, of all trainers together."""
        return -(-nodes // self.walks)


def gradient(rows: Floats, skips: Skips, negatives: int) -> tuple[float, Floats]:
    """The mean loss of the step's pairs, and for each row the mean gradient of the pairs that it is in.

    What many pairs of one step say of a row they say of the same old row: their sum would overshoot.

    Args:
        rows: (nodes, 2 * width), those of `skips.nodes`.
        skips: The pairs.
        negatives: How many of the pool each pair counts.
    """
    both = torch.from_numpy(rows).requires_grad_()
    width = both.shape[1] // 2
    centre, context = both[:, :width], both[:, width:]
    centres, contexts, pool = (torch.from_numpy(part) for part in (skips.centres, skips.contexts, skips.pool))
    near = (functional.embedding(centres, centre) * functional.embedding(contexts, context)).sum(1)
    pairs = torch.bincount(centres, minlength=len(both)).to(torch.float32)
    asked = torch.nonzero(pairs).squeeze(1)
    far = centre[asked] @ functional.embedding(pool, context).T
    share = negatives / len(pool)
    loss = functional.softplus(-near).sum() + share * (pairs[asked, None] * functional.softplus(far)).sum()
    (slopes,) = torch.autograd.grad(loss, both)
    met = (
        torch.bincount(contexts, minlength=len(both)) + torch.bincount(pool, minlength=len(both)) * len(centres) * share
    )
    slopes[:, :width] /= pairs.clamp(min=1)[:, None]
    slopes[:, width:] /= met.clamp(min=1)[:, None]
    return float(loss.detach()) / max(len(centres), 1), slopes.numpy()


def hide_links(topology: Topology, share: float, seed: int) -> tuple[Topology, Ints, Ints]:
    """Take some edges away, and draw as many pairs that are no edges.

    Returns:
        The graph that is left; the hidden edges, and the pairs that are none, both (count, 2).
    """
    generator = np.random.default_rng((seed, 9))
    low, high = edges_of(topology)
    hidden = generator.random(len(low)) < share
    rest = topology_of(topology.nodes, low[~hidden], high[~hidden])
    count = int(hidden.sum())
    drawn = np.sort(generator.integers(0, topology.nodes, (2 * count, 2)), axis=1)
    keys = drawn[:, 0] * topology.nodes + drawn[:, 1]
    none = (drawn[:, 0] != drawn[:, 1]) & ~np.isin(keys, low * topology.nodes + high)
    return rest, np.stack([low[hidden], high[hidden]], axis=1), drawn[none][:count]


def link_auc(rows: Floats, links: Ints, others: Ints) -> float:
    """How often a hidden edge is put before a pair that is none: the area under the ROC curve, by ranks.

    A pair's score is what the model says of meeting either node on a walk from the other.
    """
    width = rows.shape[1] // 2
    pairs = np.concatenate([links, others])
    one, other = rows[pairs[:, 0]], rows[pairs[:, 1]]
    scores = (one[:, :width] * other[:, width:]).sum(1) + (other[:, :width] * one[:, width:]).sum(1)
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    above = ranks[: len(links)].sum() - len(links) * (len(links) + 1) / 2
    return float(above / (len(links) * len(others)))
