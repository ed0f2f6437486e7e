# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A whole engine without a model: vLLM's real scheduler, a real worker half, and a cache that a forward would write.

Each position of a prompt has a value of its own in every layer. What is free is overwritten in each step, and what a
request decodes from is compared with what its prompt stands for, wherever it came from.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

import torch
from played_scheduler import Played
from played_worker import NAMES, TOKENS, small_cache
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.request import RequestStatus

from kvdirect.config import parse_settings
from kvdirect.worker.half import WorkerHalf
from kvdirect.worker.shared_cache import SharedCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request

BLOCKS = 64
# Pages of 64 KiB, so that pulls take long enough to be met by what happens meanwhile.
SPEC = FullAttentionSpec(block_size=TOKENS, num_kv_heads=2, head_size=128, dtype=torch.float32)
# Float32 counts so far exactly: prompts by number, and positions of each in each layer.
_PROMPTS, _POSITIONS = 4096, 1024
_GARBAGE = -1.0
# What is empty in an engine that has nothing to do.
_KEEPS = {
    "SchedulerOwner": ("_prefills", "_ending", "_revoked", "_revokes", "_settled", "_finished", "_sending"),
    "SchedulerReader": (
        "_waiting", "_early", "_streams", "_expected", "_refused", "_pulling", "_sharers", "_leaving",
    ),
    "AwaitedTickets": ("_owners",),
    "WorkerOwner": ("_live", "_finished", "_sent", "_ended"),
    "WorkerReader": ("_jobs", "_finished", "_failed"),
}  # fmt: skip


def values(prompt: int, layer: int, start: int, stop: int) -> torch.Tensor:
    """What positions [start, stop) of a prompt are in a layer's cache, in each of their numbers."""
    first = (prompt % _PROMPTS * len(NAMES) + layer) * _POSITIONS
    return torch.arange(first + start, first + stop, dtype=torch.float32)


class Engine:
    """One engine, stepped by one thread; `soon` is for the others.

    Attributes:
        wrong: Positions that requests decoded from and that were not their prompt's.
        ends: Requests by the status with which they ended.
        done: The ids of those.
    """

    def __init__(self, model: Path, role: str, **extra: Any) -> None:  # noqa: ANN401
        """`extra` are settings of the connector."""
        self.played = Played(model, role, blocks=BLOCKS, specs=(SPEC,), **extra)
        with SharedCache():  # as every cache on a host is
            config, cache, self._caches = small_cache(model, role, BLOCKS, SPEC)
        self.worker = WorkerHalf(config, parse_settings(extra), cache)
        self.worker.register(self._caches)
        offer = self.worker.offer()
        assert offer is not None
        self.scheduler = self.played.scheduler
        self.half = self.scheduler.connector.scheduler
        self.half.offer([offer])
        self._slots = 0 if self.half._owner is None else len(self.half._owner._slots)
        self.wrong = 0
        self.ends: Counter[str] = Counter()
        self.done: set[str] = set()
        self._prompts: dict[str, int] = {}
        self._requests: dict[str, Request] = {}
        self._decoded: set[str] = set()
        self._inbox: deque[Callable[[], object]] = deque()

    @property
    def port(self) -> int:
        """Of the handshake."""
        return int(self.half._server.port)

    def soon(self, action: Callable[[], object]) -> None:
        """Do it before the next step, in the thread that steps."""
        self._inbox.append(action)

    def add(self, name: str, prompt: int, tokens: int, params: dict[str, Any], *, max_tokens: int = 1) -> None:
        """Add a request whose prompt no other has."""
        self._prompts[name] = prompt
        self._requests[name] = self.played.add(tokens, params, max_tokens=max_tokens, start=prompt * 50, name=name)

    def abort(self, name: str) -> None:
        """As a client that goes away has it; no-op for one that has ended."""
        if name in self._requests:
            self.scheduler.finish_requests([name], RequestStatus.FINISHED_ABORTED)
            self._ended(name)

    def preempt(self, name: str) -> None:
        """As vLLM does where it has no block left; no-op for one that does not run."""
        request = self.scheduler.requests.get(name)
        if request is not None and request in self.scheduler.running:
            self.scheduler.running.remove(request)
            self.scheduler._preempt_request(request, time.monotonic())

    def give_back(self, claim: str) -> None:
        """As a router does whose client has gone."""
        params = {"do_remote_prefill": True, "kvdirect_claim": claim}
        gone = self.played.add(1, params, abort_immediately=True)
        self.scheduler.finish_requests([gone.request_id], RequestStatus.FINISHED_ABORTED)

    def step(self) -> bool:
        """One step, as vLLM makes it; whether something was computed."""
        while self._inbox:
            self._inbox.popleft()()
        output, metadata = self.played.schedule()
        self.worker.begin(metadata)
        self._forward(output)
        self.worker.written(metadata)
        results, report = self.worker.results(), self.worker.report()
        for name in self.played.answer(
            output,
            sent=results.sent,
            received=results.received,
            failed=results.failed,
            ended=list(report.ended) if report is not None else None,
        ):
            self._ended(name)
        return output.total_num_scheduled_tokens > 0

    def left(self) -> dict[str, object]:
        """What is not as it was before the first request, by what it is of."""
        found: dict[str, object] = {}
        if not self.played.all_blocks_are_free:
            found["blocks"] = self.played.free_blocks
        owner, reader = self.half._owner, self.half._reader
        for half in (owner, reader, reader and reader._awaited, self.worker._owner, self.worker._reader):
            for name in _KEEPS.get(type(half).__name__, ()):
                if kept := getattr(half, name):
                    found[f"{type(half).__name__}.{name}"] = kept
        if owner is not None and len(owner._slots) != self._slots:
            found["slots"] = len(owner._slots)
        return found

    def close(self) -> None:
        """End the worker; the scheduler is its stage's to end."""
        self.scheduler.connector.shutdown()
        self.worker.close()

    def _ended(self, name: str) -> None:
        request = self._requests.pop(name, None)
        if request is not None:
            self.ends[request.status.name] += 1
            self.done.add(name)
            del self._prompts[name]
            self._decoded.discard(name)

    def _forward(self, output: SchedulerOutput) -> None:
        pool = self.scheduler.kv_cache_manager.block_pool
        free = [block.block_id for block in pool.free_block_queue.get_all_free_blocks()]
        for cache in self._caches.values():
            cache[free] = _GARBAGE
        for name, tokens in output.num_scheduled_tokens.items():
            request = self.scheduler.requests[name]
            stop = int(request.num_computed_tokens)
            self._compute(request, stop - tokens, min(stop, request.num_prompt_tokens))
            if stop > request.num_prompt_tokens - 1 and name not in self._decoded:
                self._decoded.add(name)
                self._check(request)

    def _places(self, request: Request, start: int, stop: int) -> Iterable[tuple[int, int, int]]:
        """Blocks with their first position and the one behind the last of those that are wanted."""
        (blocks,) = self.scheduler.kv_cache_manager.get_block_ids(request.request_id)
        for number in range(start // TOKENS, -(-stop // TOKENS)):
            yield blocks[number], max(start, number * TOKENS), min(stop, (number + 1) * TOKENS)

    def _compute(self, request: Request, start: int, stop: int) -> None:
        prompt = self._prompts[request.request_id]
        for block, first, last in self._places(request, start, stop):
            at = first % TOKENS
            for layer, cache in enumerate(self._caches.values()):
                cache[block, :, at : at + last - first, :] = values(prompt, layer, first, last)[:, None]

    def _check(self, request: Request) -> None:
        prompt = self._prompts[request.request_id]
        for block, first, last in self._places(request, 0, request.num_prompt_tokens):
            for layer, cache in enumerate(self._caches.values()):
                here = cache[block, :, : last - first, :]
                right = values(prompt, layer, first, last)[:, None].expand_as(here)
                self.wrong += int((here != right).any(dim=(0, 2)).sum())
