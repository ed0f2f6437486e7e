# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What whole requests must reach, as `--bars` judges it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvdirect_bench.bars import Outcome

from .contenders import KVDIRECT, NIXL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .rows import Row

WIRE_SHARE = 0.005


def judge(rows: Sequence[Row]) -> list[Outcome]:
    """Every bar against the rows of kvdirect and nixl, which must be there and have transferred something."""
    found = {row.name: row for row in rows}
    ours, theirs = found[KVDIRECT], found[NIXL]
    share, other = ours.wire_share, theirs.wire_share
    if share is None or other is None:
        raise ValueError("a contender of the bars transferred nothing")
    first = ours.ratios[NIXL]["ttft"]
    return [
        Outcome(
            "wire share of request latency",
            f"at most {WIRE_SHARE:.1%}",
            f"{share:.3%} over {ours.lane}",
            met=share <= WIRE_SHARE,
        ),
        Outcome("the same, beside NixlConnector", "below its", f"{share:.3%}, its {other:.3%}", met=share < other),
        # How many times as fast, so 1 is the same time. The median decides; the interval says how sure that is.
        Outcome(
            "TTFT beside NixlConnector",
            "not above its (median of rounds at least 1 x as fast)",
            f"{first.median:.4f} [{first.low:.4f}-{first.high:.4f}] x as fast",
            met=first.median >= 1.0,
        ),
    ]
