# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Reads of several peers as one pull."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ._native import core
from .arrays import Tables, tables_or_none
from .config import check_lanes
from .errors import ConfigError
from .peer import Peer, check_seconds, refuse_range

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .pull import Pull


class Part(NamedTuple):
    """One owner's part of a `gather`; what `Peer.pull` is told.

    Attributes:
        peer: Whose blocks.
        lease: What it promised.
        remote: Block tables of its map.
        local: Block tables of ours, other blocks than those of other parts.
        stop: Past the last position. Where it is `start`, the part is empty, and nobody is asked.
        start: First position.
        watermark: Positions that must be final at the owner; `stop` unless given.
    """

    peer: Peer
    lease: core.LeaseRef
    remote: Tables
    local: Tables
    stop: int
    start: int = 0
    watermark: int | None = None


def gather(
    parts: Iterable[Part | tuple[Peer, core.LeaseRef, Tables, Tables, int]],
    *,
    timeout: float = 30.0,
    lane: str | None = None,
    stream: int | None = None,
    verify: bool = False,
) -> Pull:
    """Read from several peers as one pull; returns at once.

    It is valid once every part is, failed by the first that fails, which ends the others, and quiet when all are.
    Nothing is started unless all parts are planned. Without any part that is not empty it is a pull that has ended.
    `PullResult.shard` is the part's number.

    Args:
        parts: What to read of whom, of peers of one engine. None of a `ShardedPeer`. No two may write the same local
            blocks: that is not checked.
        timeout: Seconds until the pull fails with PullTimeout.
        lane: As for `Peer.pull`, for all parts.
        stream: As for `Peer.pull`.
        verify: As for `Peer.pull`.

    Raises:
        PlanError: The tables or the range of a part cannot be carried exactly once.
        ConfigError: Another argument is bad.
        LaneError: `lane` did not prove itself to each peer.
        PeerLost: One of the peers is gone.
    """
    check_seconds("timeout", timeout, "gather")
    wanted, numbers, peers = [], [], []
    for number, part in enumerate(Part(*part) for part in parts):
        if part.start == part.stop:
            continue
        if not 0 <= part.start < part.stop or (part.watermark is not None and part.watermark < 0):
            refuse_range(part.start, part.stop, part.watermark)
        native = part.peer.native
        if native is None:
            raise ConfigError(
                f"part {number} is of a sharded peer, which is several already",
                operation="gather",
                peer=part.peer.name,
                hint="Connect to each shard by its own descriptor",
            )
        peers.append(part.peer)
        watermark = part.stop if part.watermark is None else part.watermark
        wanted.append((native, part.lease, part.remote, part.local, part.start, part.stop, watermark))
        numbers.append(number)
    taken = "" if lane is None else check_lanes("lane", (lane,))[0]
    whose = ("+".join(dict.fromkeys(peer.name for peer in peers)), tuple(peers))
    return core.gather(wanted, numbers, timeout, taken, stream, verify, tables_or_none, whose)
