# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The connector's half in a vLLM worker process: owns the transfer engine of its rank."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm.platforms import current_platform

import kvtransfer
from kvdirect.cache.describe import attention_backends, describe_cache, model_identity
from kvdirect.cache.shard import Shard
from kvdirect.handshake.messages import Hello
from kvdirect.log import logger, show_library_log
from kvdirect.metadata import EngineOffer, StepMetadata, WorkerReport
from kvdirect.stats import KVDirectStats
from kvtransfer.errors import ConfigError
from kvtransfer.testing import stall_next_pull

from .connections import Connections
from .faults import make_corrupter
from .gpu_fences import StepFences, fences_on
from .journal import WorkerJournal
from .owner import WorkerOwner
from .reader import WorkerReader
from .shared_cache import SharedCache

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    import torch
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig

    from kvdirect.config import Settings
    from kvdirect.fingerprint import Fingerprint

# Seconds that a step without a forward may wait for a pull. vLLM would come back after a millisecond's sleep and two
# messages between processes; but a request that arrives meanwhile waits as long as this.
_PATIENCE = 0.005


@dataclass(slots=True)
class Results:
    """Requests to report this step; failed ones are among the received. `failed_blocks` are theirs, in group 0."""

    sent: set[str] = field(default_factory=set)
    received: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    failed_blocks: set[int] = field(default_factory=set)


class WorkerHalf:
    """Publishes this rank's cache, grants leases on it, and pulls into it."""

    def __init__(self, vllm_config: VllmConfig, settings: Settings, kv_cache_config: KVCacheConfig) -> None:
        """Only keep what is needed; the engine starts when the caches are known."""
        show_library_log()
        self._vllm_config = vllm_config
        self._settings = settings
        self._kv_cache_config = kv_cache_config
        self._stats = KVDirectStats()
        self._engine: kvtransfer.Engine | None = None
        self._offered: tuple[Fingerprint, tuple[int, ...], tuple[int, ...]] = ((), (), ())
        self._fences: StepFences | None = None
        self._owner: WorkerOwner | None = None
        self._reader: WorkerReader | None = None
        self._idle = False

    def memory_context(self) -> AbstractContextManager[Any] | None:
        """A context for the allocation of the cache, on CPU and where the shm lane is permitted."""
        if "shm" not in self._settings.lanes or not current_platform.is_cpu():
            return None
        return SharedCache()

    def register(self, caches: Mapping[str, torch.Tensor]) -> None:
        """Describe and register the caches that vLLM allocated, and start the engine.

        Raises:
            ConfigError: A layer cannot be described, or a setting is bad.
        """
        if self._engine is not None:
            raise ConfigError("the KV caches were registered before", operation="register the KV caches")
        settings, transfer = self._settings, self._vllm_config.kv_transfer_config
        shard = Shard.of(self._vllm_config)
        geometry = describe_cache(
            self._kv_cache_config,
            caches,
            attention_backends(self._vllm_config, list(caches)),
            model_identity(self._vllm_config, settings.model_id, shard),
            shard,
        )
        if settings.verify != "off" and geometry.device.type != "cpu":
            raise ConfigError(
                f"verify={settings.verify!r}: pulls into memory on a GPU cannot be verified yet",
                operation="register the KV caches",
                hint='Set verify to "off"',
            )
        engine = kvtransfer.Engine(
            settings.engine(),
            name=str(transfer.engine_id) + (f" rank {shard.index}" if shard.count > 1 else ""),
        )
        if settings.fault == "stall":
            stall_next_pull(settings.fault_file)
        for storage in geometry.storages:
            engine.register(storage)
        engine.publish(geometry.tensor_map)
        self._engine, self._fences = engine, fences_on(geometry.device, engine)
        journal = WorkerJournal.of(self._vllm_config, settings, shard.index)
        self._offered = (geometry.fingerprint, geometry.block_sizes, geometry.kernel_blocks)
        if transfer.is_kv_producer:
            self._owner = WorkerOwner(
                engine, geometry.kernel_blocks, settings.lease_first_term, self._stats, self._fences, journal
            )
        if transfer.is_kv_consumer:
            hello = Hello(str(transfer.engine_id), geometry.fingerprint)
            corrupt = make_corrupter(settings.fault, self._kv_cache_config, caches, geometry.kernel_blocks)
            connections = Connections(engine, settings, hello, shard)
            log = Path(settings.pull_log).open("a", buffering=1) if settings.pull_log else None  # noqa: SIM115
            self._reader = WorkerReader(
                connections, settings, geometry, self._stats, corrupt, self._fences, log, journal
            )
        size = sum(storage.nbytes for storage in geometry.storages)
        logger.info("%d MiB of KV cache, %s", size >> 20, dict(geometry.fingerprint))

    def offer(self) -> EngineOffer | None:
        """What readers of this rank need; None before the caches are registered."""
        if self._engine is None:
            return None
        return EngineOffer(self._engine.descriptor(), self._engine.incarnation, *self._offered)

    def begin(self, metadata: StepMetadata) -> None:
        """Start what the step brings, before its forward is queued.

        What clears and copies blocks for the step has been queued, so that nothing but queued work of a GPU keeps the
        destinations of its pulls.
        """
        self._idle = metadata.idle
        if metadata.pulls and self._fences is not None:
            self._fences.step_begins()
        if self._owner is not None:
            self._owner.begin(metadata)
        if self._reader is not None:
            self._reader.begin(metadata)

    def written(self, metadata: StepMetadata) -> None:
        """The forward has written its part of the cache, or on a GPU: everything that writes it has been queued."""
        if self._owner is not None:
            self._owner.written(metadata)

    def results(self) -> Results:
        """Requests that are through, each reported once."""
        results = Results()
        if self._owner is not None:
            results.sent = self._owner.take_sent()
        if self._reader is not None:
            results.received, failed = self._reader.poll(patience=_PATIENCE if self._idle else 0.0)
            results.failed = set(failed)
            results.failed_blocks = {block for blocks in failed.values() for block in blocks}
        return results

    def report(self) -> WorkerReport | None:
        """Leases that ended."""
        return None if self._owner is None else self._owner.take_report()

    def take_stats(self) -> KVDirectStats | None:
        """What was counted since the last call."""
        return self._stats.take()

    def close(self) -> None:
        """Revoke all leases, close all connections. Idempotent."""
        engine, reader = self._engine, self._reader
        self._engine = self._owner = self._reader = None
        if reader is not None:
            reader.close()
        if engine is not None:
            engine.close()
