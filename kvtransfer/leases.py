# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What an engine promises: leases on its blocks."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from .errors import ClosedError, ConfigError, LeaseExpired
from .regions import BlockLimits, granted_tables

if TYPE_CHECKING:
    import weakref
    from collections.abc import Iterable, Sequence

    from ._native import core
    from .arrays import IntArray


class Granter:
    """The part of an `Engine` that grants leases; which see."""

    _name: str
    _pid: int
    _native: core.Engine
    _table: core.LeaseTable
    _limits: BlockLimits | None
    _finalizer: weakref.finalize[..., Granter]

    def reserve(self) -> core.LeaseRef:
        """Take a free slot and a fresh epoch.

        Raises:
            ConfigError: The table is full; serve the request without a lease.
        """
        self._check_open("reserve")
        return self._taken(self._table.reserve())

    def grant(
        self,
        tables: Sequence[IntArray | range] | None,
        *,
        lease: core.LeaseRef | None = None,
        watermark: int | None = None,
        term: float | None = None,
        stream: int | None = None,
    ) -> core.LeaseRef:
        """Promise that these blocks stay put and unchanged until the lease ends.

        A lease whose term never starts (`term` None, and no `start_term`) is *pinned*: nothing but `revoke`,
        `revoke_all` or `close` ends it, neither `max_hold` nor what readers say.

        Args:
            tables: One 1-D integer block table per table of the map; appended to those of an earlier grant. A `range`
                of step 1 costs the same however long it is, as does None: every block of the map.
            lease: None reserves one. One that this table does not know is reserved with exactly that slot and epoch.
            watermark: Positions that are final already.
            term: Seconds until it ends unless renewed; None leaves the clock for `start_term`.
            stream: As for `raise_watermark`.

        Raises:
            PlanError: A block id is outside the map, or `tables` is None and nothing was published.
            LeaseExpired: The lease ended already.
            ConfigError: No slot is free, or the slot is another lease's.
        """
        self._check_open("grant")
        blocks, ranges = granted_tables(tables, self._limits)
        lease = self._taken(self._table.grant_or_reserve(lease, blocks, ranges))
        if watermark is not None:
            self.raise_watermark(lease, watermark, stream=stream)
        if term is not None:
            self.start_term(lease, term)
        return lease

    def raise_watermark(self, lease: core.LeaseRef, positions: int, *, stream: int | None = None) -> None:
        """Say that all positions below `positions` are written. Never lowers.

        Args:
            lease: Which one.
            positions: How many are final.
            stream: A CUDA stream's handle, such as `torch.cuda.current_stream().cuda_stream`: they are written once
                the stream has done what it was given so far. Returns at once; a thread of the engine waits for that.
                None: they are written now.

        Raises:
            LeaseExpired: It ended, and no `stream` was given.
            ConfigError: `stream` was given, and the engine has no memory on a GPU.
        """
        if stream is not None:
            self.raise_watermarks([(lease, positions)], stream=stream)
            return
        self._check_open("raise_watermark")
        self._table.raise_watermark(lease, positions)

    def raise_watermarks(self, watermarks: Iterable[tuple[core.LeaseRef, int]], *, stream: int | None = None) -> None:
        """`raise_watermark` for several leases, which share one mark in the stream: those of a model's step.

        Args:
            watermarks: Leases, and how many positions of each are final. Those that have ended are passed over.
            stream: As for `raise_watermark`.

        Raises:
            ConfigError: As for `raise_watermark`.
        """
        self._check_open("raise_watermark")
        if stream is not None:
            self._native.raise_watermarks_after(list(watermarks), stream)
            return
        for lease, positions in watermarks:
            with contextlib.suppress(LeaseExpired):
                self._table.raise_watermark(lease, positions)

    def start_term(self, lease: core.LeaseRef, term: float) -> None:
        """Start or restart the clock: the lease ends `term` seconds from now unless renewed.

        Raises LeaseExpired if it ended. `max_hold` counts from the first call.
        """
        self._check_open("start_term")
        self._table.start_term(lease, term)

    def renew(self, lease: core.LeaseRef, term: float) -> bool:
        """Extend to `term` seconds from now, never shorten; False if there is nothing to renew."""
        self._check_open("renew")
        return self._table.renew(lease, term)

    def revoke(self, lease: core.LeaseRef) -> bool:
        """End it now; False if it had ended. No reader accepts its blocks any more."""
        self._check_open("revoke")
        return self._table.revoke(lease)

    def revoke_all(self) -> None:
        """End every lease now."""
        self._check_open("revoke_all")
        self._table.revoke_all()

    def take_ended(self) -> list[core.LeaseEnd]:
        """Leases that ended since the last call, each once; their blocks may be overwritten. Works after `close`."""
        self._check_process("take_ended")
        return self._table.take_ended()

    @property
    def live_leases(self) -> int:
        """Leases reserved or granted and not ended."""
        return self._table.live

    def _taken(self, lease: core.LeaseRef | None) -> core.LeaseRef:
        if lease is None:
            raise ConfigError(
                f"all {self._table.slots} lease slots of engine {self._name} are taken",
                operation="reserve",
                hint="Call take_ended() regularly, raise lease_slots, or serve the request without a lease",
            )
        return lease

    def _check_process(self, operation: str) -> None:
        if self._pid != os.getpid():
            raise ClosedError(
                f"engine {self._name} belongs to process {self._pid}, and this is a fork of it",
                operation=operation,
                hint="Make an engine in the child, or start children with spawn",
            )

    def _check_open(self, operation: str) -> None:
        self._check_process(operation)
        if not self._finalizer.alive:
            raise ClosedError(f"engine {self._name} is closed", operation=operation)
