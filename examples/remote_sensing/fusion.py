# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The cross spatial-temporal fusion block: tokens look at the other date and at the other sensor."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class CrossAttention(nn.Module):
    """Queries of one set of tokens, keys and values of another one; heads of eight or sixteen channels."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.before, self.others = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, tokens: Tensor, others: Tensor, allowed: Tensor | None = None) -> Tensor:
        """What `others` say to `tokens`.

        Args:
            tokens: (places, n, width).
            others: (places, m, width).
            allowed: (n, m): which of them a token may look at; it must be one at least.
        """
        places, count, width = tokens.shape
        others = self.others(others)
        parts = (self.query(self.before(tokens)), self.key(others), self.value(others))
        query, key, value = (part.view(places, part.shape[1], self.heads, -1).transpose(1, 2) for part in parts)
        said = functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        return self.out(said.transpose(1, 2).reshape(places, count, width))

    def on_grid(self, grid: Tensor, others: Tensor) -> Tensor:
        """The same where a place is a cell, and the others are the nine cells around it in another grid.

        Args:
            grid: (width, rows, columns).
            others: The same shape.
        """
        width, rows, columns = grid.shape
        shape = (self.heads, width // self.heads, rows, columns)
        others = self.others(others.permute(1, 2, 0))
        query = self.query(self.before(grid.permute(1, 2, 0))).permute(2, 0, 1).reshape(shape)
        keys, values = (
            functional.pad(layer(others).permute(2, 0, 1)[None], (1, 1, 1, 1), mode="replicate")[0]
            for layer in (self.key, self.value)
        )
        places = [(down, right) for down in range(3) for right in range(3)]

        def shifted(padded: Tensor, down: int, right: int) -> Tensor:
            return padded[:, down : down + rows, right : right + columns].reshape(shape)

        scores = torch.stack([(query * shifted(keys, *place)).sum(1) for place in places])
        weights = (scores * shape[1] ** -0.5).softmax(0)
        said = sum(
            (weight[:, None] * shifted(values, *place) for weight, place in zip(weights, places, strict=True)),
            torch.zeros(()),
        )
        return self.out(said.reshape(width, rows, columns).permute(1, 2, 0)).permute(2, 0, 1)


class FusionBlock(nn.Module):
    """Temporal and spatial cross-attention, each let in by a gate, a sum, a norm.

    Tokens have their channels last in all of these: (..., width).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.temporal, self.spatial = CrossAttention(width), CrossAttention(width)
        self.temporal_gate, self.spatial_gate = nn.Linear(2 * width, width), nn.Linear(2 * width, width)
        self.mix = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.ReLU(inplace=True), nn.Linear(2 * width, width)
        )
        self.norm = nn.LayerNorm(width)

    def let_in_date(self, tokens: Tensor, said: Tensor) -> Tensor:
        """Tokens, and through the gate what the other date said to them."""
        return tokens + torch.sigmoid(self.temporal_gate(torch.cat([tokens, said], -1))) * said

    def let_in_sensor(self, tokens: Tensor, said: Tensor) -> Tensor:
        """Tokens, and through the gate what the other sensor said to them."""
        return tokens + torch.sigmoid(self.spatial_gate(torch.cat([tokens, said], -1))) * said

    def finish(self, tokens: Tensor) -> Tensor:
        """Mixed and normalised; what tokens become that have seen nothing else, too."""
        return self.norm(tokens + self.mix(tokens))
