# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What of a GPU's queue the transfer engine is told to wait for, and when in a step that is fixed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

import torch
from played_worker import Half, fresh, lend, order, same

import kvtransfer
from kvdirect.metadata import Grant, Hold, StepMetadata
from kvdirect.worker.gpu_fences import StepFences, fences_on

if TYPE_CHECKING:
    from collections.abc import Callable

BEGUN, QUEUED = 101, 102


class Journal(list[object]):
    """What happened, in order. It stands in for a GPU's streams where there is none; the caches are the host's."""

    def step_begins(self) -> None:
        self.append("step begins")

    begun, queued = BEGUN, QUEUED


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> Journal:
    """The streams that the real engine is given; it then does without, as its memory is not on a GPU."""
    journal = Journal()

    def watch(owner: type, method: str) -> None:
        original = getattr(owner, method)

        def watched(*args: Any, stream: int | None = None, **kwargs: Any) -> Any:  # noqa: ANN401
            journal.append((method, stream))
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, method, watched)

    watch(kvtransfer.Engine, "raise_watermarks")
    watch(kvtransfer.ShardedPeer, "pull")
    return journal


@pytest.fixture
def on_gpu(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> Journal:
    monkeypatch.setattr("kvdirect.worker.half.fences_on", lambda device, engine: journal)  # noqa: ARG005
    return journal


def test_blocks_are_final_behind_all_that_the_step_has_queued(start: Callable[..., Half], on_gpu: Journal) -> None:
    owner = start("kv_producer")
    step = StepMetadata(grants=[Grant(fresh(), ([1, 2],), 40), Grant(fresh(), ([3],), 8)])
    owner.worker.begin(step)
    assert on_gpu == [], "not before the forward, nor before a draft model's"
    owner.worker.written(step)
    assert on_gpu == [("raise_watermarks", QUEUED)], "one mark for all of a step"


def test_a_pull_waits_for_what_was_queued_when_its_step_began(start: Callable[..., Half], on_gpu: Journal) -> None:
    """And for none of what the step computes, nor for any later one."""
    owner, reader = start("kv_producer"), start("kv_consumer")
    lease = lend(owner, [3, 9], 64, "p")
    on_gpu.clear()
    reader.step(holds=[Hold("d", owner.address, lease)])
    assert on_gpu == [], "a step without pulls"
    step = StepMetadata(pulls=[order("d", [3, 9], [7, 1], 0, 64)])
    reader.worker.begin(step)
    assert on_gpu[:1] == ["step begins"]
    reader.worker.written(step)
    total = reader.worker.results()
    if "d" not in total.received:  # the connection may be made only now: some steps later, with the same mark
        total = reader.steps_until(lambda results: "d" in results.received)
    assert total.failed == set()
    assert on_gpu == ["step begins", ("pull", BEGUN)]
    assert same(owner, [3, 9], reader, [7, 1])


def test_the_host_has_nothing_to_wait_for(start: Callable[..., Half], journal: Journal) -> None:
    with kvtransfer.Engine() as engine:
        assert fences_on(torch.device("cpu"), engine) is None
    owner, reader = start("kv_producer"), start("kv_consumer")
    lease = lend(owner, [3], 32, "p")
    hold = Hold("d", owner.address, lease)
    reader.steps_until(lambda results: "d" in results.received, holds=[hold], pulls=[order("d", [3], [7], 0, 32)])
    assert journal == [("raise_watermarks", None), ("pull", None)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_mark_holds_for_what_was_queued_before_it_and_for_nothing_else() -> None:
    engine = kvtransfer.Engine()
    engine.register(torch.zeros(1, device="cuda"))
    fences = StepFences(torch.device("cuda", torch.cuda.current_device()), engine.fence_stream)
    assert fences.queued == torch.cuda.current_stream().cuda_stream
    begun = torch.cuda.ExternalStream(fences.begun)
    early = torch.ones(1 << 28, dtype=torch.uint8, device="cuda")
    for _ in range(64):
        early.mul_(3)
    fences.step_begins()
    torch.cuda._sleep(1 << 34)  # some seconds
    seen = torch.zeros(1, dtype=torch.uint8).pin_memory()
    with torch.cuda.stream(begun):
        seen.copy_(early[-1:], non_blocking=True)
    begun.synchronize()
    assert seen.item() == pow(3, 64, 256), "all that was queued before is done"
    assert not torch.cuda.current_stream().query(), "what came after is not"
