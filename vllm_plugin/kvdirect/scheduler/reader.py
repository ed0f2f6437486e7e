# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The reader's side in the scheduler: which requests find their prompt's cache at another engine, and what to pull.

Several requests of this engine may name one lease (sampling with n > 1). Each is released when it needs the lease no
more, and the last of them completes it; one that comes later computes its prompt itself. Only this half knows every
request that shares a lease: a worker may have been told of one before another has arrived.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvdirect.cache.block_tables import common_stop, padded
from kvdirect.errors import WireError
from kvdirect.log import logger
from kvdirect.metadata import Hold, OwnerAddress, PullOrder, StepMetadata
from kvdirect.transfer_params import (
    CLAIM_KEY,
    LEASE_KEY,
    PROMPT_KEY,
    SO_FAR_KEY,
    RemoteLease,
    RemotePrefill,
    parse_awaited,
    parse_remote_prefill,
    wants,
)

from .prompt import request_digest
from .streams import Stream

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.request import Request

    from kvdirect.cache.groups import Group
    from kvdirect.hosts import HostPolicy
    from kvdirect.stats import KVDirectStats

    from .awaited import AwaitedTickets
    from .journal import SchedulerJournal

# Seconds that a step without a forward may wait for news of a prefill elsewhere; a request that arrives meanwhile waits
# as long. Without it vLLM would step as often as it can, on a processor that the prefill may need.
_REST = 0.02
# Completed leases that are remembered; a later request that names one of them is not sent to the owner in vain.
_REMEMBERED = 65536


@dataclass(eq=False, slots=True)
class SchedulerReader:
    """Everything the scheduler half knows about what is read from other engines."""

    _policy: HostPolicy
    _groups: tuple[Group, ...]  # that move, in the order of their block tables
    _stats: KVDirectStats
    _journal: SchedulerJournal
    _awaited: AwaitedTickets
    _waiting: dict[str, tuple[str, int, str]] = field(default_factory=dict)  # host, port and claim of a ticket to come
    _early: dict[str, tuple[str, int, str]] = field(default_factory=dict)  # the same, of prefills that ran still
    _streams: dict[str, Stream] = field(default_factory=dict)
    _expected: dict[str, RemotePrefill] = field(default_factory=dict)
    _refused: set[str] = field(default_factory=set)
    _pulling: dict[str, RemoteLease] = field(default_factory=dict)
    _sharers: Counter[RemoteLease] = field(default_factory=Counter)
    # In order, and not by their names: of requests that end at once several may have one name in a step.
    _leaving: list[tuple[str, RemoteLease]] = field(default_factory=list)
    _spent: dict[RemoteLease, None] = field(default_factory=dict)
    _next: StepMetadata = field(default_factory=StepMetadata)
    _rests: bool = False  # nothing was computed in the last step

    def arrived(self, request: Request) -> None:
        """A request was added: if its cache is elsewhere, have the worker connect and keep the lease alive.

        Parameters that are wrong cost a local prefill, never the engine.
        """
        if any(request.request_id in known for known in (self._expected, self._refused, self._waiting)):
            return
        self._rests = False  # it may have something to compute
        try:
            if self._waits(request):
                return
            remote = self._parse(request)
        except (WireError, ValueError, RecursionError) as error:
            self._refuse(request, "bad_params", str(error))
            return
        if remote is None:
            return
        if remote.lease in self._spent:
            self._refuse(request, "lease_spent", f"{LEASE_KEY}: this lease was completed by an earlier request")
            return
        self._share(request, remote)
        if self._same_prompt(request, remote):
            if not self._forgotten(request, remote):
                self._expected[request.request_id] = remote
                return
            text = f"remote_num_tokens: what the prompt's last token needs is lost after {remote.num_tokens} tokens"
            self._refuse(request, "whole_prompt", text)
        else:
            self._refuse(
                request,
                "other_prompt",
                f"{PROMPT_KEY}: not the {remote.num_tokens} tokens that were prefilled elsewhere (this prompt has "
                f"{request.num_prompt_tokens}), or another LoRA adapter (name or path), image, cache_salt or "
                "embedding; do both engines get the same request and use the same chat template and tokenizer?",
            )
        self._leaving.append((request.request_id, remote.lease))

    def matched(self, request: Request, local_hits: int) -> int | None:
        """Prompt positions that can be pulled beyond `local_hits`; None: not known yet, as its ticket is to come."""
        if not self._came(request) and not (self._rest_for_news() and self._came(request)):
            return None
        remote = self._expected.get(request.request_id)
        if remote is None:
            return 0
        return max(0, self._available(request, remote) - local_hits)

    def allocated(self, request: Request, blocks: KVCacheBlocks, external: int) -> None:
        """Blocks were allocated, for `external` positions that come from elsewhere; each request pulls once."""
        remote = self._expected.pop(request.request_id, None)
        if remote is None:
            return
        request.kv_transfer_params["do_remote_prefill"] = False
        if external <= 0:
            self._stop_asking(request.request_id)
            self._leaving.append((request.request_id, remote.lease))
            self._journal.loaded(request.request_id, "nothing_to_pull")
            return
        self._journal.allocated(request.request_id, external)
        available = self._available(request, remote)
        tables = blocks.get_block_ids()
        early = self._early.pop(request.request_id, None)
        # Whole blocks at the end, of every group: the rows behind the prompt's last are written over before they are
        # read, and a whole block is one run where a part of it is one per layer and head.
        stop = common_stop([group.span for group in self._groups if not group.is_state], available)
        own = [group.table(tables[group.id], available) for group in self._groups]
        local = tuple(padded(table, group.span, stop) for table, group in zip(own, self._groups, strict=True))
        start = available - external
        self._pulling[request.request_id] = remote.lease
        if early is not None:
            stream = Stream(
                early[:2],
                early[2],
                remote.lease,
                request.request_id,
                self._groups,
                functools.partial(self._same_prompt, request),
                local,
                start,
                stop,
                available,
            )
            self._goes_on(request.request_id, stream, stream.first(remote))
            return
        self._next.pulls.append(
            PullOrder(
                request_id=request.request_id,
                remote=remote.blocks,
                local=local,
                start=start,
                stop=stop,
                watermark=available,
                begin=start,
            )
        )

    def ended(self, request: Request) -> None:
        """The request finished or was aborted; what it still wanted elsewhere is given up."""
        self._refused.discard(request.request_id)
        if (waited := self._waiting.pop(request.request_id, None)) is not None:
            self._awaited.forget(waited[:2], waited[2])
        self._stop_asking(request.request_id)
        remote = self._expected.pop(request.request_id, None)
        if remote is not None:
            self._leaving.append((request.request_id, remote.lease))
            self._journal.loaded(request.request_id, "aborted")
        elif request.request_id in self._pulling:
            self._next.cancels.append(request.request_id)
            self._journal.gives_up(request.request_id)

    def received(self, request_ids: Iterable[str], failed: Collection[str]) -> None:
        """The worker is done with these pulls; of those that failed the cache is not here."""
        for request_id in request_ids:
            self._stop_asking(request_id)
            self._journal.loaded(request_id, "failed" if request_id in failed else "ok")
            lease = self._pulling.pop(request_id, None)
            if lease is not None:
                self._leaving.append((request_id, lease))

    def step_ends(self, *, idle: bool) -> None:
        """A step's scheduling is done; `idle`: nothing is computed, as in the next one, if there is no news."""
        self._rests = idle
        if idle and not self._waiting:
            self._rest_for_news()

    def _rest_for_news(self) -> bool:
        """Wait for news of prefills where nothing else is to be done: others may need the processor. Once a step."""
        along = {request_id for request_id, stream in self._streams.items() if stream.waits}
        if not self._rests or not (self._waiting or along) or not self._pulling.keys() <= along:
            return False
        self._rests = False
        self._awaited.wait(_REST)
        return True

    @property
    def pending(self) -> bool:
        """Whether the worker must hear of something although no request may be left to step for."""
        return bool(self._leaving)

    def fill(self, metadata: StepMetadata) -> None:
        """Put what the worker must do into this step's metadata."""
        for request_id, stream in list(self._streams.items()):
            order = stream.next(self._awaited.look(stream.where, stream.claim))
            if order is not None:
                self._goes_on(request_id, stream, order)
        due, self._next = self._next, StepMetadata()
        metadata.holds, metadata.pulls, metadata.cancels = due.holds, due.pulls, due.cancels
        leaving, self._leaving = self._leaving, []
        names = Counter(request_id for request_id, _ in leaving)
        for number, (request_id, lease) in enumerate(leaving):
            name = request_id
            if names[request_id] > 1:
                name = _renamed(metadata.holds, request_id, lease, f"{request_id} ({number})")
            metadata.releases.append(name)
            if self._is_last(lease):
                metadata.completes.append(name)

    def _waits(self, request: Request) -> bool:
        """Whether its ticket is to come: both legs were sent at once, under a claim. Raises WireError."""
        params = request.kv_transfer_params
        if not params or LEASE_KEY in params or not wants(params, "do_remote_prefill"):
            return False
        awaited = parse_awaited(params)
        if awaited is None:
            return False
        self._check(awaited[0])
        self._waiting[request.request_id] = awaited
        self._awaited.want(awaited[:2], awaited[2])
        return True

    def _came(self, request: Request) -> bool:
        """Whether nothing is to come: the ticket came, or it is sure that none will."""
        waited = self._waiting.get(request.request_id)
        if waited is None:
            return True
        found = self._awaited.look(waited[:2], waited[2])
        if found is None:
            return False
        del self._waiting[request.request_id]
        if isinstance(found, dict) and found.get(SO_FAR_KEY) is not None:
            self._early[request.request_id] = waited
        else:
            self._awaited.forget(waited[:2], waited[2])
        if isinstance(found, str):
            self._refuse(request, "no_ticket", f"{CLAIM_KEY}: {found}")
        elif LEASE_KEY not in found:
            self._refuse(request, "bad_params", f"{LEASE_KEY}: the owner's ticket has none")
        else:
            request.kv_transfer_params = found
            self.arrived(request)
        if request.request_id not in self._expected:
            self._stop_asking(request.request_id)
        return True

    def _goes_on(self, request_id: str, stream: Stream, order: PullOrder) -> None:
        """Order a piece; when nothing follows, nobody is asked any more."""
        self._next.pulls.append(order)
        if order.lease is not None:
            # What held the last lease ended it: of that nobody need be told.
            self._is_last(self._pulling[request_id])
            self._sharers[stream.lease] += 1
            self._pulling[request_id] = stream.lease
        if order.more:
            self._streams[request_id] = stream
        else:
            self._streams.pop(request_id, None)
            self._awaited.forget(stream.where, stream.claim)

    def _stop_asking(self, request_id: str) -> None:
        """Nothing more of its prefill is to come, or is wanted."""
        if (early := self._early.pop(request_id, None)) is not None:
            self._awaited.forget(early[:2], early[2])
        if (stream := self._streams.pop(request_id, None)) is not None:
            self._awaited.forget(stream.where, stream.claim)

    def _parse(self, request: Request) -> RemotePrefill | None:
        """What the request wants from elsewhere, if anything; raises WireError."""
        params = request.kv_transfer_params
        if not params or not wants(params, "do_remote_prefill"):
            return None
        remote = parse_remote_prefill(params)
        self._check(remote.host)
        return remote

    def _check(self, host: str) -> None:
        if not self._policy.allows(host):
            raise WireError(
                f"kv_transfer_params: remote_host: {host!r} is neither loopback nor ours nor in allow_hosts"
            )

    def _refuse(self, request: Request, reason: str, text: str) -> None:
        """The request computes its prompt itself."""
        self._refused.add(request.request_id)
        self._journal.loaded(request.request_id, reason)
        if not getattr(request, "abort_immediately", False):  # vLLM's way to say that a request has failed
            logger.warning("request %s is prefilled here: %s", request.request_id, text)
            self._stats.record_failure(reason)

    def _share(self, request: Request, remote: RemotePrefill) -> None:
        self._sharers[remote.lease] += 1
        owner = OwnerAddress(remote.host, remote.port, remote.engine_id, remote.lease.incarnation)
        lease = (remote.lease.slot, remote.lease.epoch)
        self._next.holds.append(Hold(request.request_id, owner, lease, self._journal.asked(request, remote)))

    @staticmethod
    def _same_prompt(request: Request, remote: RemotePrefill) -> bool:
        """Whether the prompt begins with what was prefilled; it may go on."""
        covered, epoch = remote.num_tokens, remote.lease.epoch
        return covered <= int(request.num_prompt_tokens) and request_digest(request, covered, epoch) == remote.prompt

    def _forgotten(self, request: Request, remote: RemotePrefill) -> bool:
        """Whether the owner went on to where it keeps no more what this request needs."""
        whole = 1 < int(request.num_prompt_tokens) <= remote.num_tokens
        return whole and any(group.forgets for group in self._groups)

    @staticmethod
    def _available(request: Request, remote: RemotePrefill) -> int:
        # All but the prompt's last token: vLLM computes that one again in any case, to sample from it.
        return min(int(request.num_prompt_tokens) - 1, remote.num_tokens)

    def _is_last(self, lease: RemoteLease) -> bool:
        """Take one request from those that share a lease; the lease is spent with the last one."""
        self._sharers[lease] -= 1
        if self._sharers[lease] > 0:
            return False
        del self._sharers[lease]
        self._spent[lease] = None
        if len(self._spent) > _REMEMBERED:
            del self._spent[next(iter(self._spent))]
        return True


def _renamed(holds: list[Hold], request_id: str, lease: RemoteLease, name: str) -> str:
    """Rename a request that comes and goes in one step: the worker knows requests by their names.

    Such a one pulls nothing, so vLLM never asks for it by its own.
    """
    for hold in holds:
        same = hold.lease == (lease.slot, lease.epoch) and hold.owner.incarnation == lease.incarnation
        if hold.request_id == request_id and same:
            hold.request_id = name
            return name
    return request_id
