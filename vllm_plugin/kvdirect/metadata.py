# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the scheduler half and the worker half tell each other at each engine step (vLLM carries it)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorWorkerMetadata,
)

if TYPE_CHECKING:
    from .fingerprint import Fingerprint

# Kept apart from kvtransfer.LeaseRef so that these objects pickle without the native library.
LeaseId = tuple[int, int]  # slot, epoch


@dataclass(slots=True)
class Grant:
    """Blocks that a lease covers from now on, and how many positions are final once this step has run.

    Attributes:
        tables: Block ids to append, one list per transferred cache group; 0 is vLLM's null block.
        watermark: The reader of a cache that forgets waits for the last position: it becomes final when all is granted.
    """

    lease: LeaseId
    tables: tuple[list[int], ...]
    watermark: int


@dataclass(frozen=True, slots=True)
class OwnerAddress:
    """How readers reach the engine that holds a prompt's cache."""

    host: str
    port: int
    engine_id: str
    incarnation: int
    dp_rank: int = 0


@dataclass(slots=True)
class Hold:
    """A request that will want this lease has arrived: connect, and keep the lease alive.

    Attributes:
        trace: What the workers' spans are children of; empty: they make none.
    """

    request_id: str
    owner: OwnerAddress
    lease: LeaseId
    trace: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class PullOrder:
    """Read positions [start, stop) into these local blocks; positions below `watermark` must be final.

    Attributes:
        local: All blocks of the request that are filled from elsewhere.
        begin: The first position that any order of the request reads.
        chosen: By cache group whether it is read as far as [start, stop); the others are read as a whole with the last
            order. None: all are.
        again: There were orders of this request before.
        last: With this one everything is ordered.
        more: Further ones follow: the next positions, or all of them once more, or none because nothing is missing.
        lease: The prefill began anew, under this lease; what was read under the last one need not be read again.
        lost: Why none follows although the cache is not here: the request is to fail. Nothing is read.
    """

    request_id: str
    remote: tuple[tuple[int, ...], ...]
    local: tuple[list[int], ...]
    start: int
    stop: int
    watermark: int
    begin: int = 0
    chosen: tuple[bool, ...] | None = None
    again: bool = False
    last: bool = True
    more: bool = False
    lease: LeaseId | None = None
    lost: str = ""


@dataclass(slots=True)
class StepMetadata(KVConnectorMetadata):
    """Scheduler to worker, once a step.

    Attributes:
        revokes: Leases to end now; nobody outside knows them or nobody may use them any more.
        grants: Blocks computed in this step for other engines.
        settled: Blocks that earlier steps computed and that stay from now on, of requests that finished.
        finished: (request id, lease) whose clock starts; the worker reports each back once, as sent.
        holds, pulls: What this engine wants from others; a pull's request was held before.
        releases: Held requests that need their lease no more, because they pulled or because they need not.
        completes: Those of them that were the last to share their lease: the owner may have its blocks back.
        cancels: Requests whose pull is not wanted any more.
        idle: Nothing is computed in this step, so nobody is kept waiting if it takes a little longer.
    """

    revokes: list[LeaseId] = field(default_factory=list)
    grants: list[Grant] = field(default_factory=list)
    settled: list[Grant] = field(default_factory=list)
    finished: list[tuple[str, LeaseId]] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    pulls: list[PullOrder] = field(default_factory=list)
    releases: list[str] = field(default_factory=list)
    completes: list[str] = field(default_factory=list)
    cancels: list[str] = field(default_factory=list)
    idle: bool = False


@dataclass(slots=True)
class WorkerReport(KVConnectorWorkerMetadata):
    """Worker to scheduler: leases that ended, and on how many ranks."""

    ended: dict[LeaseId, int] = field(default_factory=dict)

    def aggregate(self, other: WorkerReport) -> WorkerReport:
        """Add another rank's report to this one."""
        for lease, ranks in other.ended.items():
            self.ended[lease] = self.ended.get(lease, 0) + ranks
        return self


@dataclass(slots=True)
class EngineOffer(KVConnectorHandshakeMetadata):
    """Worker to scheduler, once: what readers of this rank need. The descriptor is a capability: never log it.

    Attributes:
        block_sizes: Per transferred cache group, tokens in one of the scheduler's blocks.
        kernel_blocks: Per transferred cache group, kernel blocks in one of the scheduler's.
    """

    descriptor: bytes = field(repr=False)
    incarnation: int
    fingerprint: Fingerprint
    block_sizes: tuple[int, ...] = ()
    kernel_blocks: tuple[int, ...] = ()
