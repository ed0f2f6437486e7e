# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The class that vLLM talks to: hands each call to the half that lives in this process.

The API server imports this module too (for metrics), so the halves, and with them UCX, are imported only where a
connector is made. What only some versions of vLLM have is looked for, never assumed; versions.py has the range.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from vllm import __version__ as vllm_version

from . import versions
from .log import logger

versions.refuse_older(vllm_version)
try:
    from vllm.distributed.kv_transfer.kv_connector.v1.base import (
        KVConnectorBase_V1,
        KVConnectorRole,
        KVConnectorTransferResults,
        SupportsHMA,
    )
    from vllm.platforms import current_platform

    from .stats import KVDirectPromMetrics, KVDirectStats
except ImportError as error:
    raise versions.refuse_without(vllm_version, error) from error

try:
    from vllm.v1.metrics.cache_hit_source import CacheHitSource
except ImportError:  # before 0.32
    CacheHitSource = None

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch
    from vllm.config import KVTransferConfig, VllmConfig
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks, KVCacheManager
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request

    from .metadata import EngineOffer, StepMetadata, WorkerReport
    from .scheduler.half import SchedulerHalf
    from .worker.half import Results, WorkerHalf

# Those of this process that are not shut down: vLLM's MultiConnector may make several for one engine.
_alive: WeakSet[KVDirectConnector] = WeakSet()


class KVDirectConnector(KVConnectorBase_V1, SupportsHMA):
    """Pulls KV cache between vLLM engines; see docs/architecture.md for what happens when."""

    if CacheHitSource is not None:
        _cache_hit_source = CacheHitSource.P2P

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        from .config import parse_settings  # noqa: PLC0415  (native code stays out of the API server)
        from .support import check_supported, refuse_twins  # noqa: PLC0415

        settings = parse_settings(vllm_config.kv_transfer_config.kv_connector_extra_config).located()
        settings.refuse_open_network()
        check_supported(vllm_config, current_platform.device_type)
        self._beside = [other for other in _alive if other.role is role and other.cache_config is kv_cache_config]
        refuse_twins([other.transfer for other in (*self._beside, self)])
        self._scheduler: SchedulerHalf | None = None
        self._worker: WorkerHalf | None = None
        self._unloaded: set[int] = set()
        if role == KVConnectorRole.SCHEDULER:
            if untested := versions.warning(vllm_version):  # here: once for each engine
                logger.warning(untested)
            from .scheduler.half import SchedulerHalf  # noqa: PLC0415  (see the module's docstring)

            self._scheduler = SchedulerHalf(vllm_config, settings, kv_cache_config)
        else:
            from .worker.half import WorkerHalf  # noqa: PLC0415  (see the module's docstring)

            self._worker = WorkerHalf(vllm_config, settings, kv_cache_config)
        _alive.add(self)

    @property
    def cache_config(self) -> KVCacheConfig:
        """What vLLM caches: one object for all connectors of one engine in a process."""
        return self._kv_cache_config

    @property
    def transfer(self) -> KVTransferConfig:
        """This connector's own configuration; beside others it is a part of the engine's."""
        return self._kv_transfer_config

    @property
    def scheduler(self) -> SchedulerHalf:
        """The half of the scheduler process."""
        assert self._scheduler is not None, "called in a worker process"  # noqa: S101  (vLLM's mistake, not a user's)
        return self._scheduler

    @property
    def worker(self) -> WorkerHalf:
        """The half of a worker process."""
        assert self._worker is not None, "called in the scheduler process"  # noqa: S101  (see above)
        return self._worker

    # Both processes.

    @classmethod
    def get_required_kvcache_layout(cls, vllm_config: VllmConfig) -> str | None:
        """Heads outside tokens, so that a range of heads is one run; a latent cache has no heads to order.

        By the name that vLLM's own connectors give it: beside them in MultiConnector, HND would be another layout.
        """
        model = vllm_config.model_config
        return None if model is None or getattr(model, "use_mla", False) else "LBHNC"

    @classmethod
    def supports_sleep_mode(cls, kv_transfer_config: object) -> bool:
        """Not yet: leases on memory that goes away would have to be revoked first."""
        del kv_transfer_config
        return False

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> KVDirectStats:
        """Counts as they were sent between processes."""
        return KVDirectStats(data or {})

    @classmethod
    def build_prom_metrics(
        cls,
        vllm_config: VllmConfig,
        metric_types: dict[Any, Any],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> KVDirectPromMetrics:
        """Our metrics for /metrics."""
        return KVDirectPromMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)

    def get_kv_connector_stats(self) -> KVDirectStats | None:
        """What was counted in this process since the last call."""
        return self._scheduler.take_stats() if self._scheduler is not None else self.worker.take_stats()

    def shutdown(self) -> None:
        """End everything that this connector started in this process."""
        _alive.discard(self)
        if self._scheduler is not None:
            self._scheduler.close()
        if self._worker is not None:
            self._worker.close()

    # Scheduler process.

    @property
    def supports_divergent_local_hybrid_hits(self) -> bool:
        """Whether attention may have more of a prompt here than states have: a pull brings the state in any case."""
        return self._scheduler is not None and self._scheduler.restores_states

    def bind_kv_cache_manager(self, kv_cache_manager: KVCacheManager) -> None:
        """Keep vLLM's block tables at hand."""
        super().bind_kv_cache_manager(kv_cache_manager)
        self.scheduler.bind_kv_cache_manager(kv_cache_manager)

    def set_xfer_handshake_metadata(self, metadata: dict[int, EngineOffer]) -> None:
        """What the workers offer to readers, by tensor-parallel rank; there is one pipeline stage."""
        self.scheduler.offer([metadata[rank] for rank in sorted(metadata)])

    def set_xfer_handshake_metadata_pp_aware(self, metadata: dict[tuple[int, int], EngineOffer]) -> None:
        """What the workers offer to readers, by pipeline stage and tensor-parallel rank."""
        self.scheduler.offer([metadata[place] for place in sorted(metadata)])

    def on_new_request(self, request: Request) -> None:
        """A request was added."""
        self.scheduler.arrived(request)

    def get_num_new_matched_tokens(self, request: Request, num_computed_tokens: int) -> tuple[int | None, bool]:
        """Prompt positions to pull, and that this happens between steps."""
        return self.scheduler.matched(request, num_computed_tokens)

    def get_loaded_kv_cache_group_ids(self, request: Request) -> tuple[int, ...]:
        """A pull fills every group that moves."""
        del request
        from .cache.groups import transfer_group_ids  # noqa: PLC0415  (see __init__)

        return transfer_group_ids(self._kv_cache_config)

    def update_state_after_alloc(self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int) -> None:
        """The request got blocks."""
        self.scheduler.allocated(request, blocks, num_external_tokens)

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> StepMetadata:
        """What the workers must know for this step."""
        return self.scheduler.build(scheduler_output)

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        """What the workers reported."""
        self.scheduler.update(connector_output)

    def has_pending_push_work(self) -> bool:
        """Whether a step is needed although no request is left: a lease to complete."""
        return self.scheduler.pending()

    def request_finished(self, request: Request, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """As `request_finished_all_groups`, for the one group there is."""
        return self.scheduler.finish(request, (block_ids,))

    def request_finished_all_groups(
        self, request: Request, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Whether the blocks stay until they are reported sent, and what the client gets for the reader."""
        return self.scheduler.finish(request, block_ids)

    def reset_cache(self) -> bool:
        """The cache's contents become invalid."""
        return self.scheduler.reset_cache()

    # Worker processes.

    def get_mem_pool_context(self) -> AbstractContextManager[Any] | None:
        """Where vLLM allocates the cache; None: as usual, or as another of ours says. Only 0.31 and newer ask."""
        if any(other.get_mem_pool_context() is not None for other in self._beside):
            return None
        return self.worker.memory_context()

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """Describe the caches and start this rank's engine."""
        self.worker.register(kv_caches)

    def get_handshake_metadata(self) -> EngineOffer | None:
        """What readers of this rank need; None where nothing is lent.

        vLLM's MultiConnector takes the first that it gets for that of all: one of ours beside this may lend.
        """
        return self.worker.offer() if self.transfer.is_kv_producer else None

    def bind_connector_metadata(self, connector_metadata: StepMetadata) -> None:
        """A step begins, and with it its pulls."""
        super().bind_connector_metadata(connector_metadata)
        self.worker.begin(connector_metadata)

    def start_load_kv(self, forward_context: object, **kwargs: Any) -> None:
        """Pulls were started when the step was bound: vLLM calls this only when the forward is over."""

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Pulls end between steps, so no layer ever waits."""

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: object, **kwargs: Any) -> None:
        """The cache stays where it is until a reader comes."""

    def wait_for_save(self) -> None:
        """The forward has written its blocks."""
        self.worker.written(self._get_connector_metadata())

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        """Requests that are through since the last call."""
        del finished_req_ids
        results = self.worker.results()
        return KVConnectorTransferResults(
            finished_sending=results.sent, finished_recving=results.received, failed_recving=results.failed
        )

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        """The same for callers that know nothing of failures: those are told by their blocks."""
        del finished_req_ids
        results: Results = self.worker.results()
        if len(self._kv_cache_config.kv_cache_groups) == 1:  # vLLM ends the engine over blocks of several groups
            self._unloaded |= results.failed_blocks
        return results.sent or None, results.received or None

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Blocks that `get_finished` could not say failed; empty where vLLM takes whole requests."""
        unloaded, self._unloaded = self._unloaded, set()
        return unloaded

    def build_connector_worker_meta(self) -> WorkerReport | None:
        """Leases that ended on this rank."""
        return self.worker.report()
