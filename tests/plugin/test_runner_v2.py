# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Two whole connectors, called by the code with which vLLM's model runner V2 calls one; only its forward is played.

That runner needs a triton for the machine's device, this part of it does not: so the order of its calls, and what it
passes, are tested everywhere.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

import torch
from played_worker import NAMES, fresh, order, small_cache
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.outputs import KVConnectorOutput
from vllm.v1.worker.gpu import kv_connector as runner_v2

from kvdirect.connector import KVDirectConnector
from kvdirect.handshake.server import HandshakeServer
from kvdirect.harness.model import make_tiny_llama
from kvdirect.metadata import Grant, Hold, OwnerAddress, StepMetadata
from kvdirect.scheduler.half import welcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Worker:
    """A connector with its cache, and the model runner's part that calls it."""

    def __init__(self, model: Path, role: str, patch: pytest.MonkeyPatch) -> None:
        config, cache, self.caches = small_cache(model, role)
        self.connector = KVDirectConnector(config, KVConnectorRole.WORKER, cache)
        patch.setattr(runner_v2, "get_kv_transfer_group", lambda: self.connector)
        self.runner = runner_v2.ActiveKVConnector(config, self.caches)

    def step(self, *, forward: bool, **metadata: Any) -> KVConnectorOutput:  # noqa: ANN401
        """One step, with a forward or without, as the model runner makes it."""
        output = SchedulerOutput.make_empty()
        output.kv_connector_metadata = StepMetadata(**metadata)
        if not forward:
            said: KVConnectorOutput | None = self.runner.no_forward(output).kv_connector_output
            return said or KVConnectorOutput()  # vLLM leaves an empty one out
        self.runner.pre_forward(output)
        self.connector.save_kv_layer(NAMES[0], self.caches[NAMES[0]], None)
        self.runner.finish_forward()
        return self.runner.post_forward(output.finished_req_ids)


def empty_steps(worker: Worker, done: Callable[[KVConnectorOutput], object]) -> KVConnectorOutput:
    """Steps that compute nothing, until one reports what is waited for."""
    deadline = time.monotonic() + 30.0
    while not done(output := worker.step(forward=False)):
        assert time.monotonic() < deadline, output
        time.sleep(0.005)
    return output


def test_a_pull_and_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_tiny_llama(tmp_path / "model", layers=1)
    owner = Worker(model, "kv_producer", monkeypatch)
    reader = Worker(model, "kv_consumer", monkeypatch)
    offer = owner.connector.get_handshake_metadata()
    assert offer is not None
    server = HandshakeServer("127.0.0.1", 0)
    server.offer(welcome("kv_producer", [offer]))
    try:
        lease = fresh()
        for number, cache in enumerate(owner.caches.values()):
            cache[[3, 4, 9]] = torch.rand(cache[[3, 4, 9]].shape, generator=torch.Generator().manual_seed(number))
        owner.step(forward=True, grants=[Grant(lease, ([3, 4, 9],), 90)])
        assert not owner.step(forward=False, finished=[("r", lease)]).finished_sending
        hold = Hold("r", OwnerAddress("127.0.0.1", server.port, "kv_producer", offer.incarnation), lease)
        reader.step(forward=False, holds=[hold])
        first = reader.step(forward=False, pulls=[order("r", [3, 4, 9], [1, 2, 3], 0, 90)])
        last = first if first.finished_recving else empty_steps(reader, lambda output: output.finished_recving)
        assert last.finished_recving == {"r"}
        assert not last.failed_recving
        assert all(torch.equal(owner.caches[name][[3, 4, 9]], reader.caches[name][[1, 2, 3]]) for name in NAMES)
        reader.step(forward=False, releases=["r"], completes=["r"])
        ended = empty_steps(owner, lambda output: output.finished_sending)
        assert ended.finished_sending == {"r"}
        assert ended.kv_connector_worker_meta.ended == {lease: 1}
    finally:
        server.close()
        reader.connector.shutdown()
        owner.connector.shutdown()
