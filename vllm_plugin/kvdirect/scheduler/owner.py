# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The owner's side in the scheduler: which requests are prefilled for others, and under which lease.

A lease's slot and epoch are chosen when its request is first scheduled, so that the worker knows them, and the blocks,
before the request can finish and a reader can ask. A preempted request gets a new epoch: vLLM frees its blocks
without asking, and nobody outside knows the old one. Groups that forget are granted when the request has finished:
until then vLLM gives their blocks to others.

A router that will not use a ticket gives it back in a request that vLLM refuses before it computes anything: vLLM shows
such a request to the connector all the same, so that nothing is kept for it (`abort_immediately`).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kvdirect.errors import WireError
from kvdirect.log import logger
from kvdirect.metadata import Grant, LeaseId, OwnerAddress, StepMetadata, WorkerReport
from kvdirect.transfer_params import (
    CLAIM_KEY,
    LEASE_KEY,
    PROMPT_KEY,
    RANK_KEY,
    SO_FAR_KEY,
    RemoteLease,
    claim_in,
    wants,
)

from .claims import Claims
from .last_token import is_shortened, leave_out_last_token
from .prompt import request_digest

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterable, Sequence

    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request

    from kvdirect.cache.groups import Group
    from kvdirect.stats import KVDirectStats

    from .journal import SchedulerJournal

# How a prefill may end so that its cache is worth reading; aborts and errors are not in here.
_GOOD_ENDS = ("FINISHED_LENGTH_CAPPED", "FINISHED_STOPPED")


@dataclass(slots=True)
class _Prefill:
    """A request that is prefilled for somebody else. `lease` is None when the table was full."""

    request: Request
    lease: LeaseId | None = None
    preemptions: int = 0
    sent: list[int] = field(default_factory=list)
    prompt: str = ""  # its digest under this lease, once somebody may want it


@dataclass(frozen=True, slots=True)
class _Kept:
    """A finished prefill whose blocks stay; `claim` is its router's."""

    lease: LeaseId
    claim: str


@dataclass(eq=False, slots=True, weakref_slot=True)
class SchedulerOwner:
    """Everything the scheduler half knows about leases of this engine.

    Attributes:
        claims: What became of prefills that were asked for under a claim.
        frozen: vLLM pauses in mode "keep": it waits for nobody who reads what is kept.
    """

    address: OwnerAddress  # in the tickets that readers get; without its incarnation, 0, none is given
    _slots: deque[int]  # free ones of the lease table; a lease's is free again when every rank reported its end
    _groups: tuple[Group, ...]  # that move, in the order of their block tables
    _ranks: int  # workers that each report a lease's end
    _stats: KVDirectStats
    _journal: SchedulerJournal
    claims: Claims = field(default_factory=Claims)
    cache_manager: Any = None
    frozen: bool = False
    _prefills: dict[str, _Prefill] = field(default_factory=dict)
    _ending: dict[LeaseId, int] = field(default_factory=dict)  # ranks that have not reported the end
    _revoked: set[LeaseId] = field(default_factory=set)  # of those, what was ended from here
    _revokes: list[LeaseId] = field(default_factory=list)
    _settled: list[Grant] = field(default_factory=list)
    _finished: list[tuple[str, LeaseId]] = field(default_factory=list)
    _sending: dict[str, _Kept] = field(default_factory=dict)

    def arrived(self, request: Request) -> None:
        """A request was added: if its cache is for somebody else, it is computed as far as a reader can use it."""
        if not self._wanted_elsewhere(request):
            return
        if claim := claim_in(request.kv_transfer_params):
            self.claims.began(claim)
        if self._forgets:
            leave_out_last_token(request)

    def allocated(self, request: Request) -> None:
        """The request got blocks: if its cache is for somebody else, it will need a lease."""
        if not self._wanted_elsewhere(request):
            return
        if self._forgets and request.num_prompt_tokens > 1 and not is_shortened(request):
            logger.debug("request %s computes its whole prompt, which leaves nothing to read", request.request_id)
            return
        self._prefills.setdefault(request.request_id, _Prefill(request))

    def given_back(self, request: Request) -> bool:
        """A request was added: whether it only gives a ticket of this engine back, which ends the lease.

        A pull that runs under the lease fails, as under any lease that was revoked.
        """
        params = request.kv_transfer_params or {}
        if not getattr(request, "abort_immediately", False) or not (LEASE_KEY in params or CLAIM_KEY in params):
            return False
        try:
            ticket = RemoteLease.decode(str(params[LEASE_KEY])) if LEASE_KEY in params else None
        except WireError as error:
            logger.warning("request %s gives nothing back: %s", request.request_id, error)
            ticket = RemoteLease(0, 0, 0, 0)
        if ticket is not None and ticket.incarnation not in (0, self.address.incarnation):
            return False  # another engine's: its reader, if this engine has one, completes the lease over there
        request.kv_transfer_params = None  # nothing is left in it for other connectors
        known = self._end_claimed(claim_in(params)) if ticket is None else self._end_kept((ticket.slot, ticket.epoch))
        self._stats.record_return("freed" if known else "unknown")
        return True

    def fill(self, output: SchedulerOutput, metadata: StepMetadata) -> None:
        """Put this step's revocations, grants and finished requests into the metadata."""
        for prefill in self._prefills.values():
            if prefill.lease is not None and prefill.preemptions != prefill.request.num_preemptions:
                self._revoke(prefill.lease)
                prefill.lease = None
                self.claims.runs(claim_in(prefill.request.kv_transfer_params), None)
        for request_id, tokens in output.num_scheduled_tokens.items():
            scheduled = self._prefills.get(request_id)
            if scheduled is not None:
                known = scheduled.lease is not None
                guesses = len(output.scheduled_spec_decode_tokens.get(request_id, ()))
                grant = self._grant(scheduled, tokens - guesses)
                if grant is not None:
                    metadata.grants.append(grant)
                    # Not of a lease that the workers have not granted yet: to a reader that is one that ended.
                    if known:
                        self._tell(scheduled, grant)
        metadata.revokes, self._revokes = self._revokes, []
        metadata.settled, self._settled = self._settled, []
        metadata.finished, self._finished = self._finished, []

    def finish(self, request: Request, block_ids: Sequence[Sequence[int]]) -> tuple[bool, dict[str, Any] | None]:
        """The request ended.

        Returns:
            Whether its blocks must stay until the worker reports them sent, and the parameters for the reader.
        """
        claim = claim_in(request.kv_transfer_params)
        keeps, ticket = self._finish(request, block_ids, claim)
        if ticket is not None:
            self.claims.came_to(claim, ticket)
        else:
            self.claims.gone(claim)
        return keeps, ticket

    def _finish(
        self, request: Request, block_ids: Sequence[Sequence[int]], claim: str
    ) -> tuple[bool, dict[str, Any] | None]:
        prefill = self._prefills.pop(request.request_id, None)
        if prefill is None or prefill.lease is None:
            return False, None
        stale = prefill.preemptions != request.num_preemptions
        # What was generated here is in the blocks too, but only the prompt is sure to be the reader's as well.
        tokens = min(int(request.num_computed_tokens), int(request.num_prompt_tokens))
        bad = request.status.name not in _GOOD_ENDS or tokens < 1
        if stale or bad or not any(map(any, block_ids)) or self.address.incarnation == 0:
            # No reader can know this epoch: it leaves this process only with the parameters below.
            self._revoke(prefill.lease)
            return False, None
        tables = [group.table(block_ids[group.id], tokens) for group in self._groups]
        if self._forgets:
            late = tuple(table if group.forgets else [] for group, table in zip(self._groups, tables, strict=True))
            self._settled.append(Grant(prefill.lease, late, tokens))
        self._finished.append((request.request_id, prefill.lease))
        self._sending[request.request_id] = _Kept(prefill.lease, claim)
        self._ending[prefill.lease] = self._ranks
        self._journal.kept(request, tokens)
        prompt = request_digest(request, tokens, prefill.lease[1])
        return True, self._parameters(request, tables, tokens, prefill.lease, prompt)

    def reported(self, report: WorkerReport) -> None:
        """Free the slots of leases that have ended on all ranks."""
        for lease, ranks in report.ended.items():
            left = self._ending.get(lease)
            if left is None:
                self._forget(lease)
                left = self._ranks
                if left > ranks:
                    self._revokes.append(lease)  # refused there, but not by the other ranks
            if left > ranks:
                self._ending[lease] = left - ranks
            else:
                self._ending.pop(lease, None)
                self._revoked.discard(lease)
                self._slots.append(lease[0])

    def sent(self, request_ids: Iterable[str]) -> None:
        """The blocks of these requests are freed now."""
        for request_id in request_ids:
            kept = self._sending.pop(request_id, None)
            if kept is not None:
                self.claims.gone(kept.claim)
            self._journal.freed(request_id)

    def revoke_all(self) -> None:
        """The cache's contents become invalid: end every lease with the next step, which a pause has too."""
        for prefill in self._prefills.values():
            if prefill.lease is not None:
                self._revoke(prefill.lease)
                prefill.lease = None
        for kept in self._sending.values():
            self._end_kept(kept.lease)

    @property
    def pending(self) -> bool:
        """Whether the workers must hear of something although no request may be left to step for."""
        return bool(self._revokes)

    @property
    def kept(self) -> int:
        """Finished requests whose blocks stay for a reader; those whose leases are being ended are to be noticed."""
        return sum(kept.lease not in self._revoked for kept in self._sending.values())

    def kept_blocks(self) -> set[int]:
        """Blocks of all that are finished and not freed."""
        tables = (self.cache_manager.get_block_ids(request_id) for request_id in self._sending)
        return {block for table in tables for blocks in table for block in blocks if block}

    def _end_kept(self, lease: LeaseId) -> bool:
        """End a finished prefill's lease; whether there was one that had not ended."""
        if lease not in self._ending or lease in self._revoked:
            return False
        self._revoked.add(lease)
        self._revokes.append(lease)
        return True

    def _end_claimed(self, claim: str) -> bool:
        """End the lease that was asked for under a claim, also while its prefill runs."""
        if not claim:
            return False
        for request_id, prefill in self._prefills.items():
            if claim_in(prefill.request.kv_transfer_params) == claim:
                if prefill.lease is not None:
                    self._revoke(prefill.lease)
                del self._prefills[request_id]
                self.claims.gone(claim)
                return True
        return any(kept.claim == claim and self._end_kept(kept.lease) for kept in self._sending.values())

    def _grant(self, prefill: _Prefill, tokens: int) -> Grant | None:
        """The blocks that were added since the last grant, for a lease that is made if there is none."""
        if prefill.lease is None:
            if not self._slots:
                self._stats.record_failure("no_lease_slot")
                logger.warning("all lease slots are taken, %s gets none", prefill.request.request_id)
                del self._prefills[prefill.request.request_id]
                return None
            prefill.lease = (self._slots.popleft(), secrets.randbelow((1 << 64) - 1) + 1)
            prefill.preemptions = prefill.request.num_preemptions
            prefill.prompt = ""
            prefill.sent = [0] * len(self._groups)
        tables = self.cache_manager.get_block_ids(prefill.request.request_id)
        here = [[] if group.forgets else tables[group.id] for group in self._groups]
        fresh = tuple(list(table[done:]) for table, done in zip(here, prefill.sent, strict=True))
        prefill.sent = [len(table) for table in here]
        positions = prefill.request.num_computed_tokens + tokens
        if self._forgets:  # the last one is final when all is granted
            positions = min(positions, prefill.request.num_prompt_tokens - 1)
        return Grant(prefill.lease, fresh, positions)

    def _tell(self, prefill: _Prefill, grant: Grant) -> None:
        """Readers that know the claim may read what this step and earlier ones compute, as it becomes final."""
        request, claim = prefill.request, claim_in(prefill.request.kv_transfer_params)
        if not claim or self.address.incarnation == 0:
            return
        tokens = int(request.num_prompt_tokens)
        prefill.prompt = prefill.prompt or request_digest(request, tokens, grant.lease[1])
        every = self.cache_manager.get_block_ids(request.request_id)
        tables = [[] if group.forgets else list(map(int, every[group.id])) for group in self._groups]
        ticket = self._parameters(request, tables, tokens, grant.lease, prefill.prompt)
        self.claims.runs(claim, {**ticket, SO_FAR_KEY: min(grant.watermark, tokens)})

    @property
    def _forgets(self) -> bool:
        return any(group.forgets for group in self._groups)

    def _wanted_elsewhere(self, request: Request) -> bool:
        try:
            return wants(request.kv_transfer_params, "do_remote_decode")
        except WireError as error:
            logger.warning("request %s is served without a lease: %s", request.request_id, error)
            self._stats.record_failure("bad_params")
            return False

    def _revoke(self, lease: LeaseId) -> None:
        self._revokes.append(lease)
        self._revoked.add(lease)
        self._ending[lease] = self._ranks

    def _forget(self, lease: LeaseId) -> None:
        """The worker ended a lease of a running request (its table refused it): go on without."""
        for request_id, prefill in list(self._prefills.items()):
            if prefill.lease == lease:
                del self._prefills[request_id]

    def _parameters(
        self, request: Request, tables: list[list[int]], tokens: int, lease: LeaseId, prompt: str
    ) -> dict[str, Any]:
        """What the router copies to the reader: the names that existing routers know, and our lease."""
        return {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_block_ids": tables,
            "remote_engine_id": self.address.engine_id,
            "remote_request_id": request.request_id,
            "remote_host": self.address.host,
            "remote_port": self.address.port,
            "tp_size": self._ranks,
            "remote_num_tokens": tokens,
            LEASE_KEY: RemoteLease(self.address.incarnation, *lease, self._ranks).encode(),
            PROMPT_KEY: prompt,
            RANK_KEY: self.address.dp_rank,
        }
