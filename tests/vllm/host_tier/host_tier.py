# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The tier of vLLM's OffloadingConnector for engines on a CPU, where vLLM's own copies need a GPU.

Everything else is vLLM's. Copies are made late, when vLLM asks what is finished, so that blocks which are not kept for
as long as they are read are seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from vllm.v1.kv_offload.base import CanonicalKVCaches, GPULoadStoreSpec, OffloadingWorker, TransferResult
from vllm.v1.kv_offload.cpu.spec import CPUOffloadingSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm.v1.kv_offload.base import LoadStoreSpec

    Place = tuple[list[torch.Tensor], Any]  # tensors, and a spec with block_ids

# How often vLLM must ask before a copy is made.
LATE = 3


class HostTier(CPUOffloadingSpec):
    """Named in the connector's `spec_name`."""

    def get_worker(self, kv_caches: CanonicalKVCaches) -> OffloadingWorker:
        """What copies between the cache and the tier."""
        assert self.blocks_per_chunk == 1
        return HostTierWorker(kv_caches, self.num_chunks)


class HostTierWorker(OffloadingWorker):
    """Copies blocks, each job whole and in the order of their submission."""

    def __init__(self, kv_caches: CanonicalKVCaches, chunks: int) -> None:
        """Have room for so many chunks."""
        self._cache = [item.tensor for item in kv_caches.tensors]
        self._tier = [torch.zeros((chunks, tensor.shape[1]), dtype=tensor.dtype) for tensor in self._cache]
        self._jobs: dict[int, Callable[[], None]] = {}
        self._asked: dict[int, int] = {}
        self._done: set[int] = set()

    def submit_store(self, job_id: int, src_spec: GPULoadStoreSpec, dst_spec: LoadStoreSpec) -> bool:
        """From the cache to the tier."""
        return self._submit(job_id, (self._cache, src_spec), (self._tier, dst_spec))

    def submit_load(self, job_id: int, src_spec: LoadStoreSpec, dst_spec: GPULoadStoreSpec) -> bool:
        """From the tier to the cache."""
        return self._submit(job_id, (self._tier, src_spec), (self._cache, dst_spec))

    def get_finished(self) -> list[TransferResult]:
        """Jobs whose copies are made, each once."""
        for job_id in list(self._jobs):
            self._asked[job_id] += 1
            if self._asked[job_id] >= LATE:
                self._run(job_id)
        done, self._done = self._done, set()
        return [TransferResult(job_id, success=True) for job_id in done]

    def wait(self, job_ids: set[int]) -> None:
        """Make these copies now."""
        for job_id in job_ids & self._jobs.keys():
            self._run(job_id)

    def _submit(self, job_id: int, source: Place, destination: Place) -> bool:
        (sources, taken), (destinations, given) = source, destination
        taken_ids, given_ids = (torch.from_numpy(spec.block_ids).long() for spec in (taken, given))
        assert len(taken_ids) == len(given_ids)

        def copy() -> None:
            for whence, whither in zip(sources, destinations, strict=True):
                whither[given_ids] = whence[taken_ids]

        self._jobs[job_id], self._asked[job_id] = copy, 0
        return True

    def _run(self, job_id: int) -> None:
        self._jobs.pop(job_id)()
        del self._asked[job_id]
        self._done.add(job_id)
