# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""vLLM's real scheduler with the scheduler half in it; only the worker's answers are played."""

from __future__ import annotations

import contextlib
import itertools
import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from vllm.config import KVTransferConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec, KVCacheSpec, MambaSpec
from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from kvdirect import plugin
from kvdirect.metadata import EngineOffer, LeaseId, StepMetadata, WorkerReport
from kvdirect.transfer_params import RemoteLease, prompt_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vllm.v1.core.sched.output import SchedulerOutput

BLOCK = 32
FULL = FullAttentionSpec(block_size=BLOCK, num_kv_heads=2, head_size=64, dtype=torch.float32)
INCARNATION = 0xABCDEF0123456789
_NUMBERS = itertools.count()


def prompt_tokens(tokens: int, start: int = 0) -> list[int]:
    return [start * 7 + i % 250 + 3 for i in range(tokens)]


class Played:
    """vLLM's scheduler with our connector in it, stepped by hand."""

    def __init__(
        self,
        model: Path,
        role: str,
        *,
        blocks: int = 33,
        specs: tuple[KVCacheSpec, ...] = (FULL,),
        policy: Literal["fail", "recompute"] = "fail",
        stays: tuple[int, ...] = (),
        **extra: Any,  # noqa: ANN401
    ) -> None:
        """`stays` are the groups that do not move between engines; `extra` are settings of the connector."""
        plugin.register()
        transfer = KVTransferConfig(
            kv_connector="kvdirect",
            kv_role=role,
            kv_port=0,
            engine_id="self",
            kv_load_failure_policy=policy,
            kv_connector_extra_config=extra,
        )
        modes = [spec.mamba_cache_mode for spec in specs if isinstance(spec, MambaSpec)]
        config = EngineArgs(
            model=str(model),
            dtype="float32",
            max_model_len=1024,
            max_num_batched_tokens=64,
            max_num_seqs=4,
            block_size=BLOCK,
            enforce_eager=True,
            kv_transfer_config=transfer,
            kv_cache_memory_bytes=1 << 24,
            enable_prefix_caching=modes != ["none"],
        ).create_engine_config()
        config.cache_config.num_gpu_blocks = blocks
        config.cache_config.mamba_cache_mode = modes[0] if modes else "none"
        groups = [
            KVCacheGroupSpec([f"layer.{i}"], spec, enable_kv_transfer=i not in stays) for i, spec in enumerate(specs)
        ]
        cache = KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=groups)
        manager = StructuredOutputManager(config)
        size = math.lcm(*(spec.block_size for spec in specs))
        self.scheduler = Scheduler(config, cache, manager, block_size=size, hash_block_size=BLOCK, log_stats=True)
        init_none_hash(sha256)
        self._hasher = get_request_block_hasher(BLOCK, sha256)
        connector = self.scheduler.connector
        connector.set_xfer_handshake_metadata_pp_aware({(0, 0): EngineOffer(b"d", INCARNATION, (("model", "m"),))})
        self._free = self.free_blocks

    @property
    def free_blocks(self) -> int:
        return int(self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks())

    @property
    def all_blocks_are_free(self) -> bool:
        return self.free_blocks == self._free

    def add(
        self,
        tokens: int,
        params: dict[str, Any] | None,
        *,
        max_tokens: int = 1,
        start: int = 0,
        name: str = "",
        **more: Any,  # noqa: ANN401
    ) -> Request:
        """Add a request; `more` is what vLLM's has beside token ids: an adapter, images, a salt, embeddings."""
        name = name or f"request-{next(_NUMBERS)}"
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, extra_args={"kv_transfer_params": params})
        ids = None if "prompt_embeds" in more else prompt_tokens(tokens, start)
        request = Request(name, ids, sampling, None, block_hasher=self._hasher, **more)
        self.scheduler.add_request(request)
        return request

    def schedule(self) -> tuple[SchedulerOutput, StepMetadata]:
        output = self.scheduler.schedule()
        metadata = output.kv_connector_metadata
        assert isinstance(metadata, StepMetadata)
        return output, metadata

    def answer(
        self,
        output: SchedulerOutput,
        *,
        sent: set[str] | None = None,
        received: set[str] | None = None,
        failed: set[str] | None = None,
        ended: list[LeaseId] | None = None,
    ) -> dict[str, dict[str, Any] | None]:
        """The worker's output of this step; the transfer parameters of requests that finished with it."""
        ids = list(output.num_scheduled_tokens)
        sampled = []
        for request_id in ids:
            request = self.scheduler.requests[request_id]
            sampled.append([5] if request.num_computed_tokens >= request.num_tokens else [])
        kv = KVConnectorOutput(
            finished_sending=sent,
            finished_recving=received,
            failed_recving=failed or set(),
            kv_connector_worker_meta=WorkerReport(dict.fromkeys(ended, 1)) if ended else None,
        )
        runner = ModelRunnerOutput(
            req_ids=ids,
            req_id_to_index={request_id: i for i, request_id in enumerate(ids)},
            sampled_token_ids=sampled,
            kv_connector_output=kv,
        )
        outputs = self.scheduler.update_from_output(output, runner)
        return {
            item.request_id: item.kv_transfer_params
            for group in outputs.values()
            for item in group.outputs
            if item.finish_reason is not None
        }


@contextlib.contextmanager
def stage(model: Path) -> Iterator[Callable[..., Played]]:
    """Starts schedulers by role, and ends them."""
    running: list[Played] = []

    def start(role: str, **extra: Any) -> Played:  # noqa: ANN401
        running.append(Played(model, role, **extra))
        return running[-1]

    yield start
    for played in running:
        played.scheduler.connector.shutdown()


def elsewhere(tokens: int, start: int = 0, **change: Any) -> dict[str, Any]:  # noqa: ANN401
    """Parameters as another engine would return them."""
    lease = RemoteLease(INCARNATION, 7, 1 + next(_NUMBERS), 1)
    return {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "remote_block_ids": [list(range(1, 2 + tokens // BLOCK))],
        "remote_engine_id": "other",
        "remote_request_id": "r",
        "remote_host": "127.0.0.1",
        "remote_port": 5555,
        "tp_size": 1,
        "remote_num_tokens": tokens,
        "kvdirect_lease": lease.encode(),
        "kvdirect_prompt": prompt_digest(prompt_tokens(tokens, start), lease.epoch),
        **change,
    }
