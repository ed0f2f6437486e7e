# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Worker halves with real engines and real caches between them, of which a test plays vLLM's steps."""

from __future__ import annotations

import itertools
import time
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from vllm.config import KVTransferConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    KVCacheTensor,
    create_kv_cache_views,
)
from vllm.v1.kv_cache_layout import KVCacheLayout

from kvdirect.config import parse_settings
from kvdirect.handshake.server import HandshakeServer
from kvdirect.metadata import Grant, LeaseId, OwnerAddress, PullOrder, StepMetadata
from kvdirect.scheduler.half import welcome
from kvdirect.worker.half import Results, WorkerHalf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BLOCKS, TOKENS, LAYERS = 16, 32, 2
NAMES = [f"layer.{i}" for i in range(LAYERS)]
SPEC = FullAttentionSpec(block_size=TOKENS, num_kv_heads=2, head_size=16, dtype=torch.float32)
_NUMBERS = itertools.count(1)


def small_cache(
    model: Path, role: str, blocks: int = BLOCKS, spec: FullAttentionSpec = SPEC
) -> tuple[Any, KVCacheConfig, dict[str, torch.Tensor]]:
    """vLLM's configuration of an engine with a small cache, that cache's own, and the tensors, all zero."""
    transfer = KVTransferConfig(kv_connector="kvdirect", kv_role=role, kv_port=0, engine_id=role)
    config = EngineArgs(model=str(model), dtype="float32", kv_transfer_config=transfer).create_engine_config()
    config.cache_config.kv_cache_layout = "LBHNC"
    layer = SimpleNamespace(get_attn_backend=lambda: CPUAttentionBackend, isa="vec")
    config.compilation_config.static_forward_context.update(dict.fromkeys(NAMES, layer))
    page = spec.page_size_bytes
    place = KVCacheTensor(size=LAYERS * blocks * page, layers=NAMES, layer_stride=blocks * page, block_stride=page)
    cache = KVCacheConfig(blocks, [place], [KVCacheGroupSpec(NAMES, spec)])
    raw = torch.zeros(place.size, dtype=torch.int8, device="cpu")
    views = create_kv_cache_views(raw, spec, blocks, KVCacheLayout.LBHNC, place)
    return config, cache, dict(zip(NAMES, views, strict=True))


class Half:
    """A worker half, its cache, and the handshake server that answers for it."""

    def __init__(self, model: Path, role: str, port: int = 0, **extra: Any) -> None:  # noqa: ANN401
        config, cache, self.caches = small_cache(model, role)
        self.worker = WorkerHalf(config, parse_settings(extra), cache)
        self.worker.register(self.caches)
        offer = self.worker.offer()
        assert offer is not None
        self.incarnation = offer.incarnation
        self.server = HandshakeServer("127.0.0.1", port)
        self.server.offer(welcome(role, [offer]))

    @property
    def address(self) -> OwnerAddress:
        return OwnerAddress("127.0.0.1", self.server.port, "kv_producer", self.incarnation)

    def step(self, **metadata: Any) -> Results:  # noqa: ANN401
        """One engine step, as vLLM's model runner makes it."""
        step = StepMetadata(**metadata)
        self.worker.begin(step)
        self.worker.written(step)
        return self.worker.results()

    def steps_until(self, done: Callable[[Results], bool], **metadata: Any) -> Results:  # noqa: ANN401
        """A step with this metadata, then empty ones, until what they report together is `done`.

        An id that is reported twice is an error.
        """
        total, deadline = self.step(**metadata), time.monotonic() + 20.0
        while not done(total):
            assert time.monotonic() < deadline, total
            now = self.step()
            assert not (now.sent & total.sent)
            assert not (now.received & total.received)
            total.sent |= now.sent
            total.received |= now.received
            total.failed |= now.failed
            time.sleep(0.005)
        return total

    def close(self) -> None:
        self.server.close()
        self.worker.close()


def fresh() -> LeaseId:
    number = next(_NUMBERS)
    return number, 0xE0C4 << 32 | number


def lend(owner: Half, blocks: list[int], tokens: int, request_id: str) -> LeaseId:
    """Prefill: fill the blocks with numbers, as a forward would, and finish the request."""
    lease = fresh()
    for number, cache in enumerate(owner.caches.values()):
        cache[blocks] = torch.rand(cache[blocks].shape, generator=torch.Generator().manual_seed(number + lease[0]))
    owner.step(grants=[Grant(lease, (blocks,), tokens)])
    assert owner.step(finished=[(request_id, lease)]).sent == set()
    return lease


def order(request_id: str, remote: list[int], local: list[int], start: int, tokens: int) -> PullOrder:
    return PullOrder(request_id, (tuple(remote),), (local,), start, -(-tokens // TOKENS) * TOKENS, tokens)


def same(owner: Half, remote: list[int], reader: Half, local: list[int]) -> bool:
    return all(torch.equal(owner.caches[name][remote], reader.caches[name][local]) for name in NAMES)


@contextmanager
def halves(model: Path) -> Iterator[Callable[..., Half]]:
    """Starts worker halves, and closes them all in the end."""
    running: list[Half] = []

    def one(role: str, **extra: Any) -> Half:  # noqa: ANN401
        running.append(Half(model, role, **extra))
        return running[-1]

    yield one
    for half in running:
        half.close()
