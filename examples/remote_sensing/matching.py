# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Which keypoint of one sensor is which of the other: a classification with a class for "none of them"."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from .fusion import FusionBlock

if TYPE_CHECKING:
    from .model import Parts

SCORE_WIDTHS = (96, 96, 64)  # of the vectors that are compared, in each region
REGIONS = len(SCORE_WIDTHS)
MAPS = REGIONS + 1  # the last one compares the wide patch's edges as they are, without anything learned
NEIGHBOURHOOD = 24.0  # pixels: how far a keypoint's neighbours support its matches
NEVER = -1e4  # the score of a candidate outside the search radius


class Scores(NamedTuple):
    """What is known of n optical and m radar keypoints.

    Attributes:
        rows: (n, m + 1): of each optical keypoint, which radar keypoint it is; the last is none of them.
        columns: (m, n + 1): the other way round.
        cosine: (n, m): plain similarity, what the ablation goes by.
        fine: (n, width) and (m, width): what offsets are worked out from.
    """

    rows: Tensor
    columns: Tensor
    cosine: Tensor
    fine: tuple[Tensor, Tensor]


class Matcher(nn.Module):
    """Fusion of keypoints' tokens, correspondence maps of three regions, and a fully convolutional classifier.

    Keypoints have no order, so the classifier's convolutions are 1 x 1 over (optical, radar) pairs (linear layers),
    and its neighbourhood is not the next index but what lies near in both images.
    """

    def __init__(self, width: int, tokens: int, wide_tokens: int, wide: tuple[int, int]) -> None:
        """Tokens of `width`, and wide tokens of so many learned channels and oriented edges."""
        super().__init__()
        self.learned = wide[0]
        self.block = FusionBlock(width)
        self.reduce = nn.Linear(width, 16)
        inputs = (4 * width, tokens * 16, wide_tokens * sum(wide))
        self.regions = nn.ModuleList(nn.Linear(*pair) for pair in zip(inputs, SCORE_WIDTHS, strict=True))
        self.scale = nn.Parameter(torch.full((MAPS + 1,), 2.3))
        self.first, self.narrow = nn.Linear(MAPS + 2, 16), nn.Linear(16, 4)
        self.second, self.last = nn.Linear(20, 16), nn.Linear(16, 1)
        self.none = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 1))
        self.offset = nn.Sequential(
            nn.Linear(3 * SCORE_WIDTHS[1], 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 2)
        )

    def forward(
        self,
        tokens: tuple[Tensor, Tensor],
        wide: tuple[Tensor, Tensor],
        points: tuple[Tensor, Tensor],
        near: Tensor,
        on: Parts,
    ) -> Scores:
        """Compare all with all.

        Args:
            tokens: Of the optical and the radar keypoints, (n, dates, tokens, width).
            wide: Wide tokens of both, (n, dates, tokens, width).
            points: Where they are, (n, 2).
            near: (n, m), whether two lie within the search radius.
            on: What is switched on.
        """
        fused = self._fuse(tokens, near, on)
        dates = 2 if on.temporal else 1
        regions = [self._regions(one, two[:, :dates].mean(1)) for one, two in zip(fused, wide, strict=True)]
        scale = self.scale.exp()
        maps = torch.stack([scale[k] * a @ b.T for k, (a, b) in enumerate(zip(*regions, strict=True))])
        cosine = (maps[:REGIONS] / scale[:REGIONS, None, None]).mean(0).masked_fill(~near, -1)
        pairs = self._classify(maps, near, points)
        summaries = [one.mean(1) for one in fused]
        none = [self.none(one) for one in summaries]
        rows, columns = torch.cat([pairs, none[0]], 1), torch.cat([pairs.T, none[1]], 1)
        return Scores(rows, columns, cosine, (regions[0][1], regions[1][1]))

    def offsets(self, scores: Scores, optical: Tensor, radar: Tensor) -> Tensor:
        """How far beside the radar keypoint the true place of a pair is: (pairs, 2), pixels of the radar image."""
        a, b = scores.fine[0][optical], scores.fine[1][radar]
        return self.offset(torch.cat([a, b, a * b * math.sqrt(SCORE_WIDTHS[1])], 1))

    def _fuse(self, tokens: tuple[Tensor, Tensor], near: Tensor, on: Parts) -> list[Tensor]:
        now = [one[:, 0] for one in tokens]
        block = self.block
        if on.fusion and on.temporal:
            said = [block.temporal(one, two[:, 1]) for one, two in zip(now, tokens, strict=True)]
            now = [block.let_in_date(one, word) for one, word in zip(now, said, strict=True)]
        if on.fusion:
            # A patch asks as a whole, all patches of the other sensor at once, and its tokens share the answer.
            patches = [one.mean(1)[None] for one in now]
            allowed = [seen | ~seen.any(1, keepdim=True) for seen in (near, near.T)]
            said = [block.spatial(patches[k], patches[1 - k], allowed[k])[0, :, None] for k in (0, 1)]
            now = [block.let_in_sensor(one, word.expand_as(one)) for one, word in zip(now, said, strict=True)]
        return [block.finish(one) for one in now]

    def _regions(self, tokens: Tensor, wide: Tensor) -> list[Tensor]:
        """A vector of length 1 for each region: the patch's middle, the patch, the wide patch; then its edges alone."""
        middle = tokens[:, [5, 6, 9, 10]].flatten(1)
        patch = self.reduce(tokens).flatten(1)
        learned = [layer(part) for layer, part in zip(self.regions, (middle, patch, wide.flatten(1)), strict=True)]
        edges = wide[:, :, self.learned :].flatten(1)
        return [functional.normalize(part, dim=1) for part in (*learned, edges - edges.mean(1, keepdim=True))]

    @staticmethod
    def _neighbours(points: Tensor) -> Tensor:
        """How much each keypoint counts as a neighbour of each, (n, n), rows with sum 1; itself does not."""
        apart = (points[:, None] - points[None]).square().sum(-1)
        weight = torch.exp(apart / (-2 * NEIGHBOURHOOD**2)) * (1 - torch.eye(len(points)))
        return weight / (weight.sum(1, keepdim=True) + 1e-6)

    def _classify(self, maps: Tensor, near: Tensor, points: tuple[Tensor, Tensor]) -> Tensor:
        total = maps.mean(0).masked_fill(~near, NEVER)
        ranks = [total.log_softmax(1).clamp(-12), total.log_softmax(0).clamp(-12)]
        volume = torch.cat([maps, torch.stack(ranks)]).flatten(1).T
        hidden = functional.relu(self.first(volume))
        supported = self.narrow(hidden).T.reshape(-1, *near.shape) * near
        left, right = (self._neighbours(where) for where in points)
        support = (left @ supported @ right.T * 10).flatten(1).T
        hidden = functional.relu(self.second(torch.cat([hidden, support], 1)))
        judged = self.last(hidden).view(near.shape) + self.scale[MAPS].exp() * 0.1 * total
        return judged.masked_fill(~near, NEVER)


class Matches(NamedTuple):
    """Pairs that are kept, the surest first.

    Attributes:
        source: (n, 2), pixels of the optical image.
        target: (n, 2), pixels of the radar image.
        sure: (n,), 0 to 1.
    """

    source: Tensor
    target: Tensor
    sure: Tensor


def choose(matcher: Matcher, scores: Scores, points: tuple[Tensor, Tensor], on: Parts, least: float) -> Matches:
    """Pairs that are each other's best, and at least so sure.

    Args:
        matcher: Works out the offsets.
        scores: Of its `forward`.
        points: (n, 2) and (m, 2).
        on: Without `classify` it goes by the cosine alone, and the pairs are where the keypoints are.
        least: 0 to 1; for cosines, how much better than the second best candidate the best is: 1 - least bounds
            the ratio of their distances.
    """
    if on.classify:
        rows, columns = scores.rows.softmax(1)[:, :-1], scores.columns.softmax(1)[:, :-1].T
        sure = (rows * columns).sqrt()
    else:
        sure = scores.cosine
    best, partner = sure.max(1)
    mutual = sure.argmax(0)[partner] == torch.arange(len(partner))
    if not on.classify:
        apart = (2 - 2 * sure.topk(min(2, sure.shape[1]), 1).values.clamp(max=1)).sqrt()
        best = 1 - apart[:, 0] / apart[:, -1].clamp(min=1e-6)
    kept = torch.nonzero(mutual & (best > least)).flatten()
    kept = kept[torch.argsort(best[kept], descending=True, stable=True)]
    target = points[1][partner[kept]]
    if on.classify:
        target = target + matcher.offsets(scores, kept, partner[kept])
    return Matches(points[0][kept], target, best[kept])
