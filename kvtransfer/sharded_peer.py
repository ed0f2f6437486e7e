# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""An owner whose cache lies in several processes, as the one that reads from it sees it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar, cast

from ._native import core
from .arrays import Tables, tables_or_none
from .config import check_lanes
from .errors import ConfigError
from .peer import Peer, check_count, check_seconds, refuse_range
from .waiting import interruptible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .pull import Pull

T = TypeVar("T")


class ShardedPeer(Peer):
    """Several engines that together are one owner, such as tensor-parallel ranks; made by `Engine.connect`.

    A pull is one pull: valid once every shard's part is, each under that shard's own lease, failed by the first that
    fails, quiet when all are. Shards are numbered as their descriptors were given. Thread-safe.
    """

    __slots__ = ("_shards",)

    def __init__(self, native: core.ShardedPeer, keepalive: object) -> None:
        """Wrap a native peer; `keepalive` is the engine that it works with."""
        self._shards = native
        super().__init__(cast("core.Peer", native), keepalive)

    @property
    def native(self) -> None:
        """There are several."""
        return

    @property
    def shards(self) -> tuple[int, ...]:
        """Those that hold a part of what is read here; the others may be idle."""
        return tuple(self._shards.read)

    @property
    def maps(self) -> tuple[core.TensorMap, ...]:
        """What each shard published; an empty map for one that is not connected."""
        return tuple(self._shards.maps)

    @property
    def map(self) -> core.TensorMap:
        """What the first shard that is read published."""
        return self._shards.maps[self._shards.read[0]]

    def pull(
        self,
        lease: core.LeaseRef | Sequence[core.LeaseRef],
        remote: Tables | Sequence[Tables],
        local: Tables,
        *,
        start: int = 0,
        stop: int,
        watermark: int | None = None,
        timeout: float = 30.0,
        lane: str | None = None,
        stream: int | None = None,
        verify: bool = False,
    ) -> Pull:
        """Read positions [start, stop) from all shards' blocks into ours; returns at once.

        Args:
            lease: What the owner promised, equal on all shards; or one for each shard, and then `remote` has the tables
                of each.
            remote: As for `Peer.pull`, the same for all shards; or, with a lease for each, such tables for each.
            local: As for `Peer.pull`, as all other arguments are; `lane` must be one of `lanes`.
            start: First position.
            stop: Past the last position.
            watermark: Positions that must be final at every shard that is read.
            timeout: Seconds until the pull fails with PullTimeout.
            lane: Take this lane to all of them.
            stream: The destination is free once this CUDA stream has done what it was given so far.
            verify: Compare each shard's part with that shard's digest.

        Raises:
            PlanError: The tables or the range cannot be carried exactly once.
            ConfigError: Another argument is bad.
            LaneError: `lane` did not prove itself to each of them.
            PeerLost: One of them is gone.
        """
        if not 0 <= start < stop or (watermark is not None and watermark < 0):
            refuse_range(start, stop, watermark)
        if not 0 < timeout < math.inf:
            check_seconds("timeout", timeout, "pull")
        one = isinstance(lease, core.LeaseRef)
        tables = [remote] * self._shards.count if one else self._for_each("remote", remote)
        return self._shards.pull(
            self._leases(lease),
            cast("list[Tables]", tables),
            local,
            start,
            stop,
            stop if watermark is None else watermark,
            timeout,
            "" if lane is None else check_lanes("lane", (lane,))[0],
            stream,
            verify,
            tables_or_none,
            self._whose,
        )

    def complete(self, lease: core.LeaseRef | Sequence[core.LeaseRef], *, readers: int | Sequence[int] = 1) -> None:
        """Tell every shard that is connected that this reader needs the lease no more.

        Args:
            lease: Which one, or one for each shard.
            readers: Reader ranks that complete it; or how many complete it at each shard, 0 where this one does not.
        """
        counts = [readers] * self._shards.count if isinstance(readers, int) else self._for_each("readers", readers)
        for count in counts:
            if count != 0 or isinstance(readers, int):
                check_count("readers", count)
        self._shards.complete(self._leases(lease), counts)

    def hold(
        self, lease: core.LeaseRef | Sequence[core.LeaseRef], *, term: float = 60.0, affirm_within: float = 300.0
    ) -> None:
        """Renew the lease at every shard that is connected, as `Peer.hold` does."""
        check_seconds("term", term, "hold")
        check_seconds("affirm_within", affirm_within, "hold")
        self._shards.hold(self._leases(lease), term, affirm_within)

    def affirm(self, lease: core.LeaseRef | Sequence[core.LeaseRef]) -> None:
        """Say that a held lease is still wanted; cheap, meant for every step. Unknown leases are ignored."""
        self._shards.affirm(self._leases(lease))

    def drop(self, lease: core.LeaseRef | Sequence[core.LeaseRef]) -> None:
        """Stop renewing a held lease without completing it."""
        self._shards.drop(self._leases(lease))

    def _leases(self, lease: core.LeaseRef | Sequence[core.LeaseRef]) -> list[core.LeaseRef]:
        if isinstance(lease, core.LeaseRef):
            return [lease] * self._shards.count
        return self._for_each("lease", lease)

    def _for_each(self, name: str, values: Sequence[T]) -> list[T]:
        if len(values) == self._shards.count:
            return list(values)
        raise ConfigError(
            f"{name}: {len(values)} given, expected one for each of {self._shards.count} shards",
            operation="pull",
            peer=self.name,
        )


def connected(
    keepalive: object,
    engine: core.Engine,
    descriptor: bytes | Sequence[bytes],
    how: tuple[Sequence[str], str, float],
    idle: bool | Sequence[int],
    reader_index: int | None,
) -> Peer:
    """Connect as `Engine.connect` says; `how`: the lanes, which of them is required, seconds."""
    if isinstance(descriptor, bytes | bytearray | memoryview):
        one = bytes(descriptor)
        return Peer(interruptible(lambda: engine.connect(one, *how)), keepalive)
    parts = [bytes(part) for part in descriptor]
    if not parts:
        raise ConfigError("no descriptor was given", operation="connect")
    numbers = range(len(parts))
    chosen = list(idle) if not isinstance(idle, bool) else list(numbers) if idle else []
    if wrong := [number for number in chosen if number not in numbers]:
        raise ConfigError(f"idle_shards: {wrong[0]} is none of 0 to {len(parts) - 1}", operation="connect")
    if reader_index is not None and not 0 <= reader_index < 1 << 64:
        raise ConfigError(f"reader_index: expected a whole number from 0, got {reader_index}", operation="connect")
    return ShardedPeer(interruptible(lambda: engine.connect_shards(parts, *how, chosen, reader_index)), keepalive)
