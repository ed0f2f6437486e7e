# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The reader's side in a worker: from a request's arrival to the report that its blocks are there, or are not."""

from __future__ import annotations

import contextlib
import functools
import json
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TextIO

import kvtransfer
from kvdirect.cache.block_tables import covered_blocks, kernel_tables
from kvdirect.hosts import endpoint
from kvdirect.log import logger
from kvtransfer.errors import KVTransferError, PullTimeout

from .connections import Connection, Connections, standing
from .pieces import NOTHING, Pieces

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    import numpy as np
    import numpy.typing as npt

    from kvdirect.cache.describe import CacheGeometry
    from kvdirect.config import Settings
    from kvdirect.metadata import Hold, LeaseId, PullOrder, StepMetadata
    from kvdirect.stats import KVDirectStats

    from .faults import Corrupter
    from .gpu_fences import StepFences
    from .journal import WorkerJournal

# A worker says once in this many seconds that it still wants its leases.
_AFFIRM_EVERY = 1.0
# Past a pull's own timeout: something is wrong with us, not with the peer.
_GRACE = 5.0


@dataclass(slots=True)
class _Job:
    """One request that arrived, and how far it is."""

    hold: Hold
    connection: Future[Connection]
    held: bool = False
    affirmed: float = 0.0
    released: bool = False
    completes: bool = False
    reported: bool = False
    cancelled: bool = False
    pieces: Pieces | None = None
    began: int = 0  # the pull, in nanoseconds since the epoch
    deadline: float = 0.0
    overdue: bool = False

    @property
    def lease(self) -> kvtransfer.LeaseRef:
        return kvtransfer.LeaseRef(*self.hold.lease)

    def standing(self) -> Connection | None:
        """The connection, once it stands."""
        return standing(self.connection)


# With verify="sampled", of so many pulls one is.
_SAMPLED = 100


@dataclass(eq=False, slots=True)
class WorkerReader:
    """All requests of this rank whose cache comes from elsewhere. Used from the worker's main thread only."""

    _connections: Connections
    _settings: Settings
    _geometry: CacheGeometry  # of our own cache
    _stats: KVDirectStats
    _corrupt: Corrupter | None  # for negative controls in tests
    _fences: StepFences | None  # what a GPU must get done before blocks may be filled; None for a cache on the host
    _log: TextIO | None  # of pulls
    _journal: WorkerJournal
    _jobs: dict[str, _Job] = field(default_factory=dict)
    _finished: set[str] = field(default_factory=set)
    _failed: dict[str, list[int]] = field(default_factory=dict)
    _started: int = 0  # pulls, so far

    def begin(self, metadata: StepMetadata) -> None:
        """Take up what a step brings, before its forward: pulls run beside it, and the owner hears of ends at once."""
        for hold in metadata.holds:
            job = self._jobs[hold.request_id] = _Job(hold, self._connections.to(hold.owner))
            self._journal.connecting(hold, job.connection)
        for order in metadata.pulls:
            self._order(order)
        for request_id in metadata.releases:
            self._release(request_id, complete=request_id in metadata.completes)
        for request_id in metadata.cancels:
            self._cancel(request_id)

    def poll(self, patience: float = 0.0) -> tuple[set[str], dict[str, list[int]]]:
        """Move every request on.

        Args:
            patience: Seconds to wait for a running pull where no request is done yet.

        Returns:
            Requests that are done, and those of them that failed, with their blocks in group 0; each is returned once.
        """
        self._move_all()
        if not self._finished and patience > 0 and self._wait_for_one(patience):
            self._move_all()
        finished, self._finished = self._finished, set()
        failed, self._failed = self._failed, {}
        return finished, failed

    def _order(self, order: PullOrder) -> None:
        """The request has blocks: pull, now if the connection stands."""
        job = self._jobs.get(order.request_id)
        if job is not None and order.lease is not None:
            self._changes_lease(job, order.lease)  # of one that is here already, too: that is what is to be completed
        if order.again and (job is None or job.reported):
            return  # it failed, and the scheduler has not heard of that yet
        if job is None:  # its id was used twice; the second one is over already
            self._finished.add(order.request_id)
            self._failed[order.request_id] = order.local[0]
            return
        job.pieces = job.pieces or Pieces(order)
        job.pieces.order(order)
        if job.cancelled:
            job.pieces.cancel()
        job.deadline = time.monotonic() + self._settings.handshake_timeout + self._settings.pull_timeout + _GRACE
        made = job.standing()
        if job.connection.done() and (made is None or not made.alive):
            job.connection, job.held = self._connections.to(job.hold.owner), False
            self._journal.connecting(job.hold, job.connection)
        self._move(job, job.pieces)

    @staticmethod
    def _changes_lease(job: _Job, lease: LeaseId) -> None:
        """The prefill began anew: the lease that ended is kept no longer, the new one is."""
        if (made := job.standing()) is not None:
            with contextlib.suppress(KVTransferError):
                made.peer.drop(job.lease)
        job.hold, job.held = replace(job.hold, lease=lease), False

    def _release(self, request_id: str, *, complete: bool) -> None:
        """The request needs its lease no more; with `complete`, no other does, and the owner is told."""
        job = self._jobs.get(request_id)
        if job is None:
            return
        job.released, job.completes = True, complete
        if job.pieces is None or job.reported:
            self._end(job)

    def _cancel(self, request_id: str) -> None:
        """The request was aborted: give up, and report it as soon as nothing can land any more."""
        job = self._jobs.get(request_id)
        if job is not None and not job.reported:
            job.cancelled = True
            if job.pieces is not None:
                job.pieces.cancel()

    def _wait_for_one(self, seconds: float) -> bool:
        """Whether there was a running pull to wait for: the one that was ordered first."""
        under_way = (job.pieces.running for job in self._jobs.values() if job.pieces is not None and not job.reported)
        pull = next((one for one in under_way if one is not None), None)
        if pull is None:
            return False
        with contextlib.suppress(KVTransferError):  # late, or failed: the next look at it says so
            pull.wait(seconds)
        return True

    def _move_all(self) -> None:
        for job in list(self._jobs.values()):
            if job.pieces is not None and not job.reported:
                self._move(job, job.pieces)
            # It needs no bytes now: it has no blocks yet, or has been reported.
            elif job.released:
                self._end(job)
            elif (made := job.standing()) is not None:
                self._keep(job, made.peer)

    def _move(self, job: _Job, pieces: Pieces) -> None:
        """One step for one request with blocks, which may be its last."""
        order = pieces.whole
        try:
            result = self._advance(job, pieces)
        except KVTransferError as error:
            self._failed[order.request_id] = order.local[0]
            self._fail(job, order, error)
        else:
            if result is None:
                return
            self._succeed(job, order, result)
        job.reported = True
        self._finished.add(order.request_id)

    def close(self) -> None:
        """Close the connections, with what they still carry, and the log."""
        self._connections.close()
        if self._log is not None:
            self._log.close()

    def _advance(self, job: _Job, pieces: Pieces) -> kvtransfer.PullResult | None:
        """One step for one request with blocks: its result, or None while it goes on. Raises why it failed."""
        owner = job.standing()
        if owner is not None:
            self._keep(job, owner.peer)
        if pieces.waits and owner is not None and self._settings.fault == "no_pull":
            return NOTHING
        if pieces.waits:
            try:
                self._begin(job, pieces, owner)
            except KVTransferError as error:
                pieces.fail(error)  # earlier pieces may be under way
        return self._watch(job, pieces)

    def _begin(self, job: _Job, pieces: Pieces, owner: Connection | None) -> None:
        if owner is None:
            _raise_failure(job)
            return
        job.began = job.began or time.time_ns()
        pieces.begin(functools.partial(self._pull, job, owner))

    def _pull(self, job: _Job, owner: Connection, order: PullOrder) -> kvtransfer.Pull:
        chosen = order.chosen or (True,) * len(order.local)
        return owner.peer.pull(
            job.lease,
            _only(chosen, kernel_tables(order.remote, owner.kernel_blocks)),
            _only(chosen, kernel_tables(order.local, self._geometry.kernel_blocks)),
            start=order.start,
            stop=min(order.stop, owner.positions(order.remote, chosen)),
            watermark=order.watermark,
            timeout=self._settings.pull_timeout,
            stream=None if self._fences is None else self._fences.begun,
            verify=self._verifies(),
        )

    def _verifies(self) -> bool:
        """Whether the pull that starts now is one of those that are verified."""
        self._started += 1
        mode = self._settings.verify
        return mode == "all" or (mode == "sampled" and self._started % _SAMPLED == 1)

    def _watch(self, job: _Job, pieces: Pieces) -> kvtransfer.PullResult | None:
        result = pieces.result()
        if result is None and pieces.lands and time.monotonic() > job.deadline and not job.overdue:
            job.overdue = True
            pieces.cancel()
            logger.error(
                "UNHEALTHY: the pull of %s is overdue; its blocks stay held until nothing can land",
                job.hold.request_id,
            )
        return result

    def _keep(self, job: _Job, peer: kvtransfer.Peer) -> None:
        """Renew the lease while the request waits. What goes wrong here shows itself when the pull starts."""
        now = time.monotonic()
        with contextlib.suppress(KVTransferError):
            if not job.held:
                job.held, job.affirmed = True, now
                peer.hold(job.lease, term=self._settings.lease_term, affirm_within=self._settings.affirm_within)
            elif now - job.affirmed >= _AFFIRM_EVERY:
                job.affirmed = now
                peer.affirm(job.lease)

    def _succeed(self, job: _Job, order: PullOrder, result: kvtransfer.PullResult) -> None:
        if self._corrupt is not None:
            self._corrupt(self._covered(order))
        if result is not NOTHING:
            self._stats.record_pull(result.lane, result.bytes, result.seconds, result.post_seconds, result.runs)
            if job.pieces is not None and (early := job.pieces.early):
                self._stats.record_stream(result.lane, early, result.seconds)
        self._write(job, order, result, "ok", "")

    def _covered(self, order: PullOrder) -> list[list[int]]:
        """Per cache group, the blocks that a pull fills."""
        tables = zip(order.local, self._geometry.block_sizes, strict=True)
        return [covered_blocks(table, size, order.start, order.stop) for table, size in tables]

    def _fail(self, job: _Job, order: PullOrder, error: KVTransferError) -> None:
        reason = "cancelled" if job.cancelled else type(error).__name__
        self._stats.record_failure(reason)
        if not job.cancelled:
            logger.warning("request %s did not get its KV cache: %s", job.hold.request_id, error)
        self._write(job, order, NOTHING, "failed", f"{reason}: {error}")

    def _end(self, job: _Job) -> None:
        """Forget the request; complete its lease if it is the last one, whether it got its bytes or not."""
        del self._jobs[job.hold.request_id]
        if job.completes:
            # At once where the connection stands, else when it does: no later step may come to look at it again.
            job.connection.add_done_callback(functools.partial(_complete, job.lease, job.hold.request_id))

    def _write(self, job: _Job, order: PullOrder, result: kvtransfer.PullResult, status: str, reason: str) -> None:
        if self._log is None and self._journal.silent:
            return
        blocks, tokens = sum(map(len, self._covered(order))), order.watermark - order.start
        self._journal.pulled(job.hold, job.began, result, blocks=blocks, tokens=tokens, reason=reason)
        if self._log is None:
            return
        record = {
            "time": round(time.time(), 6),
            "request_id": job.hold.request_id,
            "owner": endpoint(job.hold.owner.host, job.hold.owner.port),
            "rank": self._connections.rank,
            "bytes": result.bytes,
            "blocks": blocks,
            "runs": result.runs,
            "pieces": 0 if job.pieces is None else job.pieces.count,
            "lane": result.lane,
            "seconds": result.seconds,
            "start": order.start,
            "stop": order.stop,
            "tokens": tokens,
            "status": status,
            "reason": reason,
        }
        try:
            self._log.write(json.dumps(record) + "\n")
        except OSError as error:
            logger.error("pull_log is given up: %s", error)
            self._log = None


def _only(chosen: Sequence[bool], tables: list[npt.NDArray[np.int64]]) -> list[npt.NDArray[np.int64] | None]:
    """The tables of chosen cache groups."""
    return [table if taken else None for taken, table in zip(chosen, tables, strict=True)]


def _complete(lease: kvtransfer.LeaseRef, request_id: str, connection: Future[Connection]) -> None:
    """Tell the owner that the lease is needed no more, if it can be reached.

    Workers of it that another rank tells are renewed no longer: else they held the blocks while that rank is away.
    """
    owner = standing(connection)
    try:
        if owner is None or not owner.alive:
            return
        if any(owner.completes):
            owner.peer.complete(lease, readers=owner.completes)
        owner.peer.drop(lease)
    except KVTransferError as error:
        logger.warning("the owner of %s was not told that it is done: %s", request_id, error)


def _raise_failure(job: _Job) -> None:
    """Raise why there is no connection, unless it is still being made in time."""
    if job.connection.done():
        error = None if job.connection.cancelled() else job.connection.exception()
        if isinstance(error, KVTransferError):
            raise error
        raise KVTransferError("the connection failed", operation="connect", status=repr(error))
    if time.monotonic() > job.deadline:
        raise PullTimeout("no connection to the owner in time", operation="connect")
