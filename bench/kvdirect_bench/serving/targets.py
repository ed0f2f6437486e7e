# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What whole requests must reach, as `--bars` judges it: beside NixlConnector as vLLM ships it.

nixl-best is not judged: its changes are the benchmark's, and beside it the differences between two engines of one kind
decide, which are larger than those between connectors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvdirect_bench.report import Outcome

from .options import KVDIRECT, NIXL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .rows import Row

WIRE_SHARE = 0.005


def judge(rows: Sequence[Row]) -> list[Outcome]:
    """Every target against the rows.

    Args:
        rows: kvdirect among them and nixl where it took part, both of which have transferred something.
    """
    found = {row.name: row for row in rows}
    ours = found[KVDIRECT]
    share = ours.wire_share
    if share is None:
        raise ValueError("kvdirect transferred nothing")
    outcomes = [
        Outcome(
            "wire share of request latency",
            f"at most {WIRE_SHARE:.1%}",
            f"{share:.3%} over {ours.lane}",
            met=share <= WIRE_SHARE,
        )
    ]
    return outcomes + (_beside(ours, share, found[NIXL]) if NIXL in found else [])


def _beside(ours: Row, share: float, theirs: Row) -> list[Outcome]:
    if theirs.wire_share is None:
        raise ValueError(f"{theirs.name} transferred nothing")
    first = ours.ratios[theirs.name]["ttft"]
    return [
        Outcome(
            f"wire share beside {theirs.name}",
            "below its",
            f"{share:.3%}, its {theirs.wire_share:.3%}",
            met=share < theirs.wire_share,
        ),
        # How many times as fast, so 1 is the same time. The median decides; the interval says how sure that is.
        Outcome(
            f"TTFT beside {theirs.name}",
            "not above its: median of rounds at least 1 x as fast",
            f"{first.median:.4f} [{first.low:.4f}-{first.high:.4f}] x as fast",
            met=first.median >= 1.0,
        ),
    ]
