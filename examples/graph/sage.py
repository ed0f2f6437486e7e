# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""GraphSAGE with mean aggregation, in plain torch."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .data import Floats, Ints, Task
    from .sampler import Batch, Layer


class SageLayer(nn.Module):
    """A node's own row and the mean of its neighbours', each through a matrix of its own."""

    def __init__(self, width: int, out: int) -> None:
        """Make the matrices for rows of `width`, to rows of `out`."""
        super().__init__()
        self.own = nn.Linear(width, out)
        self.near = nn.Linear(width, out, bias=False)

    def forward(self, rows: torch.Tensor, layer: Layer) -> torch.Tensor:
        """Rows of the layer's targets; one without neighbours has zeros for their mean."""
        sources = torch.from_numpy(layer.sources)
        offsets = torch.from_numpy(layer.offsets)
        mean = functional.embedding_bag(sources, rows, offsets, mode="mean", include_last_offset=True)
        return self.own(rows[: layer.targets]) + self.near(mean)


class Sage(nn.Module):
    """As many layers as there are widths of outputs."""

    def __init__(self, widths: Sequence[int], seed: int, dropout: float = 0.3) -> None:
        """`widths`: of the features, of each hidden layer, and the number of classes."""
        super().__init__()
        torch.manual_seed(seed)
        self.steps = nn.ModuleList(SageLayer(a, b) for a, b in pairwise(widths))
        self.dropout = dropout
        self._chance = torch.Generator().manual_seed(seed)

    def forward(self, rows: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Scores of the batch's seeds, (seeds, classes)."""
        for number, (step, layer) in enumerate(zip(self.steps, batch.layers, strict=True)):
            if number:
                rows = functional.relu(rows)
                if self.training:
                    kept = torch.rand(rows.shape, generator=self._chance) >= self.dropout
                    rows = rows * kept / (1 - self.dropout)
            rows = step(rows, layer)
        return rows


def seed_batches(nodes: Ints, size: int, epoch: int, seed: int) -> Iterator[tuple[Ints, np.random.Generator]]:
    """The epoch's nodes in a shuffled order, `size` at a time, each with the generator for its neighbours.

    What a batch draws depends on its number only, so that it is the same whoever draws it and however early.
    """
    order = np.random.default_rng((seed, 5, epoch)).permutation(nodes)
    for number, first in enumerate(range(0, len(order), size)):
        yield order[first : first + size], np.random.default_rng((seed, 6, epoch, number))


def accuracy(model: Sage, task: Task, rows: Floats, batch: Batch, seeds: Ints) -> int:
    """How many of a batch's seeds are put into their class."""
    model.eval()
    with torch.no_grad():
        guessed = model(torch.from_numpy(rows), batch).argmax(1).numpy()
    model.train()
    return int((guessed == task.labels[seeds]).sum())
