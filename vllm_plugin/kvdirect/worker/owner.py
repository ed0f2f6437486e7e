# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The owner's side in a worker: grants what the scheduler half decided and reports each lease's end once."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import kvtransfer
from kvdirect.cache.block_tables import kernel_tables
from kvdirect.log import logger
from kvdirect.metadata import Grant, LeaseId, StepMetadata, WorkerReport
from kvtransfer.errors import KVTransferError, LeaseExpired

if TYPE_CHECKING:
    from kvdirect.stats import KVDirectStats

    from .gpu_fences import StepFences
    from .journal import WorkerJournal


@dataclass(eq=False, slots=True)
class WorkerOwner:
    """Leases of this rank's engine, from the first grant to the report of their end."""

    _engine: kvtransfer.Engine
    _kernel_blocks: tuple[int, ...]  # per cache group, in one block
    _first_term: float  # seconds that a finished prefill is kept before a reader renews
    _stats: KVDirectStats
    _fences: StepFences | None  # what a GPU must get done before blocks are final; None for a cache on the host
    _journal: WorkerJournal
    _live: set[LeaseId] = field(default_factory=set)
    _finished: dict[LeaseId, str] = field(default_factory=dict)
    _sent: set[str] = field(default_factory=set)
    _ended: dict[LeaseId, int] = field(default_factory=dict)

    def begin(self, metadata: StepMetadata) -> None:
        """Before the forward: revoke before anything is overwritten, grant what this step writes, start clocks."""
        for lease in metadata.revokes:
            self._engine.revoke(_ref(lease))
        for grant in (*metadata.grants, *metadata.settled):
            try:
                self._grant(grant.lease, grant.tables)
            except LeaseExpired:
                logger.debug("lease %s ended before its request did", grant.lease)
            except KVTransferError as error:
                logger.warning("lease %s is refused: %s", grant.lease, error)
                if not self._engine.revoke(_ref(grant.lease)):
                    self._end(grant.lease, "refused")
        self._raise_watermarks(metadata.settled)
        for request_id, lease in metadata.finished:
            self._finish(request_id, lease)

    def written(self, metadata: StepMetadata) -> None:
        """After the forward, that of a draft model too: what they wrote is final, on a GPU once it is done."""
        self._raise_watermarks(metadata.grants)

    def take_sent(self) -> set[str]:
        """Finished requests whose blocks vLLM may free now, each once."""
        for end in self._engine.take_ended():
            self._end((end.lease.slot, end.lease.epoch), end.reason)
        sent, self._sent = self._sent, set()
        return sent

    def take_report(self) -> WorkerReport | None:
        """Leases that ended since the last call; None if there are none."""
        if not self._ended:
            return None
        report, self._ended = WorkerReport(self._ended), {}
        return report

    def _grant(self, lease: LeaseId, tables: tuple[list[int], ...]) -> None:
        known = lease in self._live
        self._live.add(lease)
        if not known:
            self._stats.record_lease_grant()
        if not known or any(tables):
            self._engine.grant(kernel_tables(tables, self._kernel_blocks), lease=_ref(lease))

    def _raise_watermarks(self, grants: list[Grant]) -> None:
        if grants:
            stream = None if self._fences is None else self._fences.queued
            self._engine.raise_watermarks([(_ref(grant.lease), grant.watermark) for grant in grants], stream=stream)

    def _finish(self, request_id: str, lease: LeaseId) -> None:
        if lease not in self._live:
            self._sent.add(request_id)
            return
        self._finished[lease] = request_id
        with contextlib.suppress(LeaseExpired):  # its end is on the way
            self._engine.start_term(_ref(lease), self._first_term)

    def _end(self, lease: LeaseId, reason: str) -> None:
        if lease not in self._live:
            return
        self._live.discard(lease)
        self._ended[lease] = 1
        self._stats.record_lease_end(reason)
        request_id = self._finished.pop(lease, None)
        if request_id is not None:
            self._sent.add(request_id)
            self._journal.freed(request_id, reason)
        level = logging.DEBUG if reason in {"completed", "revoked"} else logging.WARNING
        logger.log(level, "lease of %s ended: %s", request_id or "an unfinished request", reason)


def _ref(lease: LeaseId) -> kvtransfer.LeaseRef:
    return kvtransfer.LeaseRef(*lease)
