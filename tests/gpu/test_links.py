# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the driver says of the way between two GPUs, and between a GPU and a network card: asked, and told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from transfer.harness import AgentError

from .gpu_layout import GpuLayout
from .test_cuda_ipc import TOKENS, expected

if TYPE_CHECKING:
    from .test_cuda_ipc import Launch

pytestmark = pytest.mark.usefixtures("simulated")


@pytest.mark.parametrize(
    ("link", "sees", "summary"),
    [
        ("none", "0,1", "cuda_ipc, on the same GPU"),
        ("nvlink", "1,0", "cuda_ipc, over NVLink (performance rank 0)"),
        ("pcie", "1,0", "cuda_ipc, over PCIe (performance rank 1)"),
        ("pcie", "1", "cuda_ipc, from a GPU that CUDA_VISIBLE_DEVICES hides from this process"),
    ],
)
@pytest.mark.parametrize("pieces", [0, 1])
def test_the_link_between_two_gpus(launch: Launch, link: str, sees: str, summary: str, pieces: int) -> None:
    """The owner's GPU is number 0; the reader's is the first that it sees. Also where it does not see the owner's."""
    layout, here = GpuLayout(), {"KVDIRECT_SIM_GPUS": "2", "KVDIRECT_SIM_CUDA_LINK": link}
    owner = launch(layout, 1, CUDA_VISIBLE_DEVICES="0", **here)
    reader = launch(layout, 2, CUDA_VISIBLE_DEVICES=sees, **here)
    owner.start("owner", pieces=pieces)
    reader.start("reader", pieces=pieces)
    reader.call("connect", descriptor=owner.descriptor)
    assert reader.call("lane_summary") == summary
    lease = owner.call("grant", blocks=[2], watermark=TOKENS)
    reader.call("pull", lease=lease, remote=[2], local=[4], stop=TOKENS)
    assert (reader.contents() == expected(owner, reader, [2], [4], 0, TOKENS)).all()


@pytest.mark.parametrize("pieces", [0, 1])
def test_gpus_that_cannot_reach_each_other(launch: Launch, pieces: int) -> None:
    here = {"KVDIRECT_SIM_GPUS": "2", "KVDIRECT_SIM_CUDA_LINK": "none"}
    owner = launch(CUDA_VISIBLE_DEVICES="0", **here).start("owner", pieces=pieces)
    reader = launch(CUDA_VISIBLE_DEVICES="1,0", **here).start("reader", pieces=pieces)
    with pytest.raises(AgentError) as refusal:
        reader.call("connect", descriptor=owner.descriptor)
    said = str(refusal.value)
    assert "CUDA_ERROR_PEER_ACCESS_UNSUPPORTED" in said
    assert "(the way to it: from a GPU that this one has no access to)" in said


@pytest.mark.parametrize(
    ("ordering", "flush", "told"), [("0", "0", True), ("0", "1", False), ("100", "0", False), ("0", "2", True)]
)
def test_no_pull_lands_where_nothing_orders_what_a_card_writes(
    launch: Launch, ordering: str, flush: str, told: bool
) -> None:
    """Of the GPU's two attributes one must say so: it orders such writes by itself, or is flushed by the host."""
    lanes = ["rdma"]
    owner, reader = (
        launch(KVDIRECT_SIM_CUDA_WRITES_ORDERING=ordering, KVDIRECT_SIM_CUDA_FLUSH_OPTIONS=flush) for _ in range(2)
    )
    for engine in (owner, reader):
        engine.call("rdma_over", transports="cma,posix")
        engine.start("engine", lanes=lanes)
    with pytest.raises(AgentError) as refusal:
        reader.call("connect", descriptor=owner.descriptor)
    said = "this GPU neither orders what network cards write to it, nor can be made to"
    assert (said in str(refusal.value)) is told, refusal.value
