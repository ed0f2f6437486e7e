# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The connector's half in vLLM's scheduler process."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from kvdirect.cache.groups import transfer_groups
from kvdirect.cache.shard import Shard
from kvdirect.config import handshake_port
from kvdirect.handshake.client import resolve_claims
from kvdirect.handshake.messages import Welcome
from kvdirect.handshake.server import HandshakeServer
from kvdirect.hosts import HostPolicy
from kvdirect.log import logger
from kvdirect.metadata import EngineOffer, OwnerAddress, StepMetadata, WorkerReport
from kvdirect.stats import KVDirectStats
from kvtransfer import descriptor_for
from kvtransfer.errors import ConfigError

from .awaited import AwaitedTickets
from .claims import Claims
from .journal import SchedulerJournal
from .owner import SchedulerOwner
from .pauses import keep_in_pauses
from .reader import SchedulerReader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm.config import VllmConfig
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks, KVCacheManager
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request

    from kvdirect.config import Settings
    from kvdirect.handshake.exchange import Breakable

    from .awaited import Ask


# A reader connects when it has its answer. The clocks of an owner's hosts may differ by less than this.
PASS_SECONDS = 300.0
# Requests without a ticket, and none with one, after which a reader says so.
SUSPICIOUS = 16


def _data_parallel_index(vllm_config: VllmConfig) -> int:
    """Which of the engines on one port range this is; vLLM sets the rank of independent ones to 0."""
    parallel = vllm_config.parallel_config
    return int(getattr(parallel, "data_parallel_index", parallel.data_parallel_rank))


def welcome(engine_id: str, offers: Sequence[EngineOffer]) -> Welcome:
    """What readers are answered: the engine as its first worker has it, and all workers' descriptors, in order."""
    first = offers[0]
    descriptors = tuple(offer.descriptor for offer in offers)
    return Welcome(engine_id, first.incarnation, first.fingerprint, first.block_sizes, first.kernel_blocks, descriptors)


def with_passes(offer: Welcome, reader: str) -> Welcome:
    """An offer whose descriptors admit one reader only, for as long as it may take to connect."""
    passes = (descriptor_for(one, reader=reader, valid_for=PASS_SECONDS) for one in offer.descriptors)
    return msgspec.structs.replace(offer, descriptors=tuple(passes))


def asking(settings: Settings) -> Ask:
    """How owners are asked for tickets: with our keys, if we have any."""
    keys = settings.keys()

    def ask(
        host: str, port: int, claims: Sequence[str], unlike: bytes, breakable: Breakable
    ) -> tuple[bytes | int, ...]:
        return resolve_claims(
            host,
            port,
            claims,
            unlike=unlike,
            breakable=breakable,
            timeout=settings.handshake_timeout,
            keys=keys,
            anybody=settings.insecure_network,
            streamed=settings.streamed,
        )

    return ask


class SchedulerHalf:
    """Chooses leases for what is prefilled here, and pulls for what was prefilled elsewhere."""

    def __init__(self, vllm_config: VllmConfig, settings: Settings, kv_cache_config: KVCacheConfig) -> None:
        """Start; an owner begins to listen for handshakes.

        Raises:
            ConfigError: The handshake's port is taken.
        """
        transfer = vllm_config.kv_transfer_config
        groups = transfer_groups(kv_cache_config)
        self._stats = KVDirectStats()
        self._ticketless = 0  # requests before the first that has a ticket; -1 since then
        self._server: HandshakeServer | None = None
        self._owner: SchedulerOwner | None = None
        self._reader: SchedulerReader | None = None
        # Of what is no state, a pull brings only what is behind the prefix of the one group that vLLM looks at.
        states = sum(group.is_state for group in groups)
        restored = 0 < states == len(groups) - 1 == len(kv_cache_config.kv_cache_groups) - 1
        self.restores_states = bool(transfer.is_kv_consumer) and restored
        workers = Shard.of(vllm_config).count
        journal = SchedulerJournal.of(vllm_config, settings)
        self._engine_id = str(transfer.engine_id)
        if transfer.is_kv_producer:
            rank = _data_parallel_index(vllm_config)
            port = handshake_port(transfer.kv_port, rank)
            claims = Claims()
            self._server = HandshakeServer(
                settings.host,
                port,
                settings.keys(),
                anybody=settings.insecure_network,
                for_reader=with_passes,
                resolve=claims.answers,
                bootstrap=rank if settings.bootstrap else None,
            )
            claims.news = self._server.news
            address = OwnerAddress(settings.host, self._server.port, self._engine_id, incarnation=0, dp_rank=rank)
            slots = deque(range(settings.lease_slots))
            self._owner = SchedulerOwner(address, slots, groups, workers, self._stats, journal, claims)
            logger.info("handshakes on %s:%d", address.host, address.port)
        if transfer.is_kv_consumer:
            policy = HostPolicy(settings.host, settings.allow_hosts)
            awaited = AwaitedTickets(asking(settings), settings.streamed)
            self._reader = SchedulerReader(policy, groups, self._stats, journal, awaited)

    def bind_kv_cache_manager(self, manager: KVCacheManager) -> None:
        """Where the block tables of running requests are read from."""
        if self._owner is not None:
            self._owner.cache_manager = manager
            keep_in_pauses(self._owner, manager)

    def offer(self, offers: Sequence[EngineOffer]) -> None:
        """All workers have registered their caches: answer readers from now on. One for each worker, in order."""
        if self._server is None or self._owner is None:
            return
        if not all(isinstance(item, EngineOffer) for item in offers):
            # vLLM's MultiConnector passes on what its first connector says, to all of them.
            raise ConfigError(
                "the workers' handshake data is another connector's",
                operation="answer handshakes",
                hint="Only one in MultiConnector's list can lend: give kvdirect kv_role kv_consumer, or drop the other",
            )
        # Each rank's transfer engine has its own; the vLLM engine goes by that of rank 0, in tickets and handshakes.
        self._owner.address = replace(self._owner.address, incarnation=offers[0].incarnation)
        self._server.offer(welcome(self._engine_id, offers))

    def arrived(self, request: Request) -> None:
        """A request was added."""
        params = request.kv_transfer_params
        if params is not None and not isinstance(params, dict):
            # Clients can put anything there (vllm_xargs); vLLM itself expects a mapping.
            logger.warning("request %s: kv_transfer_params is no object, it is ignored", request.request_id)
            self._stats.record_failure("bad_params")
            request.kv_transfer_params = None
        if self._owner is not None:
            if self._owner.given_back(request):
                return
            self._owner.arrived(request)
        if self._reader is not None:
            if self._owner is None:
                self._look_for_ticket(request)
            self._reader.arrived(request)

    def _look_for_ticket(self, request: Request) -> None:
        """Count a request that names nobody's cache; say once where none of the first ones does.

        A router may send some so, and says why in its own counters. One that passes no kv_transfer_params on sends
        all of them so: every answer is right, and nothing is ever pulled.
        """
        if getattr(request, "abort_immediately", False):  # vLLM's way to say that a request has failed
            return
        if (request.kv_transfer_params or {}).get("do_remote_prefill"):  # a wrong value is refused, and counted there
            self._ticketless = -1  # tickets do arrive
            return
        self._stats.record_without_ticket()
        if self._ticketless >= 0:
            self._ticketless += 1
        if self._ticketless == SUSPICIOUS:
            logger.warning(
                "none of the first %d requests has a ticket (kv_transfer_params.do_remote_prefill), so prompts are "
                "prefilled here; this engine is a kv_consumer: does the router pass prefill's kv_transfer_params on?",
                SUSPICIOUS,
            )

    def matched(self, request: Request, local_hits: int) -> tuple[int | None, bool]:
        """External prompt positions beyond `local_hits`, None if not known yet; and that they load asynchronously."""
        if self._reader is None:
            return 0, False
        self._reader.arrived(request)  # no-op when vLLM has announced it, as it does since 0.30
        external = self._reader.matched(request, local_hits)
        return external, bool(external)

    def allocated(self, request: Request, blocks: KVCacheBlocks, external: int) -> None:
        """The request got its blocks."""
        if self._reader is not None:
            self._reader.allocated(request, blocks, external)
        if self._owner is not None:
            self._owner.allocated(request)

    def build(self, output: SchedulerOutput) -> StepMetadata:
        """What the workers must know for this step."""
        metadata = StepMetadata(idle=output.total_num_scheduled_tokens == 0)
        if self._owner is not None:
            self._owner.fill(output, metadata)
        if self._reader is not None:
            self._reader.step_ends(idle=metadata.idle)
            self._reader.fill(metadata)
        return metadata

    def finish(self, request: Request, block_ids: Sequence[Sequence[int]]) -> tuple[bool, dict[str, Any] | None]:
        """The request ended: whether its blocks stay, and what the client gets for the reader."""
        if self._reader is not None:
            self._reader.ended(request)
        if self._owner is not None:
            return self._owner.finish(request, block_ids)
        return False, None

    def update(self, output: KVConnectorOutput) -> None:
        """Take in what the workers reported."""
        report = output.kv_connector_worker_meta
        if self._owner is not None:
            if isinstance(report, WorkerReport):
                self._owner.reported(report)
            self._owner.sent(output.finished_sending or ())
        if self._reader is not None:
            self._reader.received(output.finished_recving or (), output.failed_recving)

    def pending(self) -> bool:
        """Whether the workers must hear of something although no request may be left to step for."""
        halves = (self._owner, self._reader)
        return any(half is not None and half.pending for half in halves)

    def take_stats(self) -> KVDirectStats | None:
        """What was counted here since the last call."""
        if self._server is not None:
            self._stats.record_handshakes(self._server.take_counts())
        return self._stats.take()

    def reset_cache(self) -> bool:
        """The cache's contents become invalid: no lease on them may be honoured any more."""
        if self._owner is not None:
            self._owner.revoke_all()
        return True

    def close(self) -> None:
        """Stop answering handshakes."""
        if self._server is not None:
            self._server.close()
