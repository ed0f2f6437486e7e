# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Oriented boxes of ships, out of one sensor's feature maps or of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .fusion import FusionBlock

if TYPE_CHECKING:
    from collections.abc import Callable

CELL = 4  # pixels; model.STRIDE
SIZES = (30.0, 8.0)  # pixels: a ship's usual length and width
OUTPUTS = 7  # heat, offset x and y, log length, log width, cosine and sine of twice the angle


class ShipHead(nn.Module):
    """Two convolutions, then a heat map of middles with sizes and angles."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before in (width, 48):
            layers += [nn.Conv2d(before, 48, 3, 1, 1, bias=False), nn.GroupNorm(8, 48), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(48, OUTPUTS, 1))
        with torch.no_grad():
            self.layers[-1].bias[0] = -4.0  # ships are rare

    def forward(self, grid: Tensor) -> Tensor:
        """(OUTPUTS, rows, columns) of (width, rows, columns)."""
        return self.layers(grid[None])[0]


class ShipFinder(nn.Module):
    """The fusion block on the cells of feature maps, a head for each sensor alone, and one for both."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(FusionBlock(width) for _ in range(2))
        self.alone = nn.ModuleList(ShipHead(width) for _ in range(2))
        self.fused = ShipHead(2 * width)

    def see(self, sensor: int, maps: Tensor, *, temporal: bool = True) -> Tensor:
        """One sensor's cells of date 0 that have seen the other date.

        Args:
            sensor: 0 for optical, 1 for radar.
            maps: (dates, width, rows, columns).
            temporal: Look at the other date.
        """
        if not temporal:
            return maps[0]
        said = self.blocks[sensor].temporal.on_grid(maps[0], maps[1])
        return let_in(self.blocks[sensor].let_in_date, maps[0], said)

    def tell(self, sensor: int, seen: Tensor) -> Tensor:
        """What one sensor alone tells, in its own pixels: of what `see` returned."""
        return self.alone[sensor](finished(self.blocks[sensor], seen))

    def tell_fused(self, optical: Tensor, radar: Tensor) -> Tensor:
        """What both tell, in the optical image's pixels: of what `see` returned, the radar's moved by `moved_map`.

        A cell looks at the nine around it in the other map, which is moved by an estimate.
        """
        seen = (optical, radar)
        said = [self.blocks[k].spatial.on_grid(seen[k], seen[1 - k]) for k in (0, 1)]
        both = [let_in(self.blocks[k].let_in_sensor, seen[k], said[k]) for k in (0, 1)]
        return self.fused(torch.cat([finished(self.blocks[k], both[k]) for k in (0, 1)]))


def let_in(gate: Callable[[Tensor, Tensor], Tensor], grid: Tensor, said: Tensor) -> Tensor:
    """A gate of the fusion block on grids, whose channels come first."""
    return gate(grid.permute(1, 2, 0), said.permute(1, 2, 0)).permute(2, 0, 1)


def finished(block: FusionBlock, grid: Tensor) -> Tensor:
    """The end of the fusion block on a grid."""
    return block.finish(grid.permute(1, 2, 0)).permute(2, 0, 1)


def moved_map(maps: Tensor, affine: np.ndarray[tuple[int, ...], np.dtype[np.float64]], size: int) -> Tensor:
    """The radar's map where the optical image's pixels are.

    Args:
        maps: (width, rows, columns).
        affine: (2, 3), from pixels of the optical image to those of the radar image.
        size: Pixels of either image's sides.
    """
    centres = (torch.arange(maps.shape[-1]) + 0.5) * (size / maps.shape[-1]) - 0.5
    places = torch.stack(torch.meshgrid(centres, centres, indexing="ij")[::-1], -1)
    map_to = torch.from_numpy(np.asarray(affine, np.float32))
    grid = ((places @ map_to[:, :2].T + map_to[:, 2] + 0.5) * (2 / size) - 1)[None]
    return functional.grid_sample(maps[None], grid, align_corners=False)[0]


def targets(boxes: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """What the head is to say: heat (rows, columns), the other six (6, rows, columns), and where those count."""
    heat, rest = torch.zeros(rows, columns), torch.zeros(OUTPUTS - 1, rows, columns)
    where = torch.zeros(rows, columns, dtype=torch.bool)
    down, right = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    for x, y, length, width, angle in boxes.tolist():
        column, row = (x + 0.5) / CELL - 0.5, (y + 0.5) / CELL - 0.5
        peak_row, peak_column = round(row), round(column)
        if not (0 <= peak_row < rows and 0 <= peak_column < columns):
            continue
        apart = (down - peak_row).square() + (right - peak_column).square()
        heat = torch.maximum(heat, torch.exp(-apart / 2.0))
        close = apart <= 2
        where |= close
        values = [np.log(length / SIZES[0]), np.log(width / SIZES[1]), np.cos(2 * angle), np.sin(2 * angle)]
        rest[:, close] = torch.stack(
            [(column - right)[close], (row - down)[close], *(torch.full((int(close.sum()),), v) for v in values)]
        ).float()
    return heat, rest, where


def ship_loss(said: Tensor, boxes: Tensor) -> Tensor:
    """Focal loss of the heat map, absolute errors of the rest."""
    heat, rest, where = targets(boxes, *said.shape[1:])
    chance = said[0].sigmoid().clamp(1e-4, 1 - 1e-4)
    peak = heat == 1
    right = ((1 - chance).square() * chance.log())[peak].sum()
    wrong = ((1 - heat).pow(4) * chance.square() * (1 - chance).log())[~peak].sum()
    loss = -(right + wrong) / max(1, int(peak.sum()))
    if where.any():
        loss = loss + 2 * (said[1:, where] - rest[:, where]).abs().mean(1).sum()
    return loss


def boxes_of(said: Tensor, least: float = 0.05, most: int = 30) -> tuple[Tensor, Tensor]:
    """The boxes (n, 5) that a head tells, x, y, length, width and angle, and how sure it is (n,), the surest first."""
    chance = said[0].sigmoid()
    peaks = chance == functional.max_pool2d(chance[None], 3, 1, 1)[0]
    sure, index = (chance * peaks).flatten().topk(most)
    index, sure = index[sure > least], sure[sure > least]
    right, down = index % said.shape[2], index // said.shape[2]
    x, y, length, width, cosine, sine = said[1:].flatten(1)[:, index]
    middle = [((right + x) + 0.5) * CELL - 0.5, ((down + y) + 0.5) * CELL - 0.5]
    sizes = [SIZES[0] * length.clamp(-2, 2).exp(), SIZES[1] * width.clamp(-2, 2).exp()]
    return torch.stack([*middle, *sizes, torch.atan2(sine, cosine) / 2], 1), sure
