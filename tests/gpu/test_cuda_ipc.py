# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Pulls between two processes with their caches on a GPU."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
from transfer.frames import sealed
from transfer.harness import AgentError, until

import kvtransfer as kt

from .gpu_layout import ORDERS, Bytes, GpuLayout

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import GpuEngine

    Launch = Callable[..., GpuEngine]

TOKENS = GpuLayout().token


def connected(owner: GpuEngine, reader: GpuEngine, **config: object) -> None:
    owner.start("owner", **config)
    reader.start("reader", **config)
    assert reader.call("connect", descriptor=owner.descriptor) == ["cuda_ipc"]


def expected(owner: GpuEngine, reader: GpuEngine, remote: list[int], local: list[int], start: int, stop: int) -> Bytes:
    """Positions [start, stop) of the reader's blocks as the owner's are, the rest untouched."""
    result = reader.before.copy()
    for position in range(start, stop):
        there, here = remote[position // TOKENS], local[position // TOKENS]
        result[:, here, position % TOKENS] = owner.before[:, there, position % TOKENS]
    return result


@pytest.mark.parametrize("copy", ["kernel", "bulk", "batch"])
@pytest.mark.parametrize("theirs", ORDERS)
@pytest.mark.parametrize("ours", ORDERS)
def test_every_pair_of_layouts(launch: Launch, theirs: str, ours: str, copy: str) -> None:
    """A pull that permutes is a pull like any other, whole blocks and parts of them."""
    owner, reader = launch(GpuLayout(theirs), 1), launch(GpuLayout(ours, before=256), 2)
    connected(owner, reader, cuda_copy=copy)
    remote, local = [5, 0, 7], [1, 6, 2]
    lease = owner.call("grant", blocks=remote, watermark=3 * TOKENS)
    result = reader.call("pull", lease=lease, remote=remote, local=local, start=2, stop=3 * TOKENS - 1)
    assert result["lane"] == "cuda_ipc"
    assert result["bytes"] == (3 * TOKENS - 3) * 2 * 2 * 64
    assert (reader.contents() == expected(owner, reader, remote, local, 2, 3 * TOKENS - 1)).all()
    assert (owner.contents() == owner.before).all()


@pytest.mark.parametrize(
    ("element", "before"), [(1, 0), (3, 0), (6, 2), (20, 4), (64, 8), (72, 8), (4096, 16), (20000, 0)]
)
def test_every_alignment(launch: Launch, element: int, before: int) -> None:
    """Accesses are as wide as addresses and lengths allow, and never wider."""
    theirs = GpuLayout("heads", layer=1, element=element, before=before)
    owner, reader = launch(theirs, 3), launch(GpuLayout("blocks", layer=1, element=element), 4)
    connected(owner, reader)
    lease = owner.call("grant", blocks=[3, 1], watermark=2 * TOKENS)
    reader.call("pull", lease=lease, remote=[3, 1], local=[0, 7], stop=2 * TOKENS)
    assert (reader.contents() == expected(owner, reader, [3, 1], [0, 7], 0, 2 * TOKENS)).all()


@pytest.mark.parametrize("element", [32, 36, 512, 1028, 1032, 4096, 20000])
def test_runs_in_bulk(launch: Launch, element: int) -> None:
    """Rows around a slot of shared memory, ends that bulk copies do not take, and permutations."""
    owner = launch(GpuLayout("heads", layer=1, element=element, before=16), 3)
    reader = launch(GpuLayout("blocks", layer=1, element=element), 4)
    connected(owner, reader, cuda_copy="bulk", cuda_sms=2)
    lease = owner.call("grant", blocks=[3, 1], watermark=2 * TOKENS)
    reader.call("pull", lease=lease, remote=[3, 1], local=[0, 7], stop=2 * TOKENS)
    assert (reader.contents() == expected(owner, reader, [3, 1], [0, 7], 0, 2 * TOKENS)).all()


@pytest.mark.usefixtures("simulated")
def test_bulk_is_refused_by_name_where_the_gpu_is_older(launch: Launch) -> None:
    with pytest.raises(AgentError) as refusal:
        launch(KVDIRECT_SIM_CUDA_CAPABILITY="8").start("engine", cuda_copy="bulk")
    said = str(refusal.value)
    assert "ConfigError" in said
    assert 'cuda_copy="bulk": expected a GPU of compute capability 9.0 or newer, this one has 8.0' in said
    assert 'take cuda_copy="kernel"' in said


def test_many_blocks(launch: Launch) -> None:
    """More than one launch is given at a time, in no order."""
    layout = GpuLayout(layer=3, block=3000, token=TOKENS, head=1, element=128)
    owner, reader = launch(layout, 5), launch(layout, 6)
    connected(owner, reader, cuda_sms=2)
    remote = [(block * 7) % 3000 for block in range(2500)]
    local = [(block * 11) % 3000 for block in range(2500)]
    lease = owner.call("grant", blocks=remote, watermark=2500 * TOKENS)
    result = reader.call("pull", lease=lease, remote=remote, local=local, stop=2500 * TOKENS)
    assert result["runs"] == 3 * 2500
    assert (reader.contents() == expected(owner, reader, remote, local, 0, 2500 * TOKENS)).all()


@pytest.mark.parametrize("pieces", [1, 3])
def test_memory_mapped_in_pieces(launch: Launch, pieces: int) -> None:
    """What torch's expandable segments are: allocations side by side, given over as file descriptors."""
    layout = GpuLayout(layer=1, block=1200, token=TOKENS, head=1, element=1024)
    owner, reader = launch(layout, 7), launch(layout, 8)
    owner.start("owner", pieces=pieces)
    reader.start("reader", pieces=pieces)
    assert reader.call("connect", descriptor=owner.descriptor) == ["cuda_ipc"]
    blocks = list(range(0, 1200, 13))
    lease = owner.call("grant", blocks=blocks, watermark=len(blocks) * TOKENS)
    reader.call("pull", lease=lease, remote=blocks, local=blocks[::-1], stop=len(blocks) * TOKENS)
    assert (reader.contents() == expected(owner, reader, blocks, blocks[::-1], 0, len(blocks) * TOKENS)).all()


def test_memory_that_cannot_be_exported(launch: Launch) -> None:
    owner = launch().start("owner", pieces=1, exportable=False)
    assert "region 0 was made without a handle that other processes can map" in owner.problems["cuda_ipc"]
    reader = launch().start("reader")
    with pytest.raises(AgentError, match="cannot be exported, or it does not allow it"):
        reader.call("connect", descriptor=owner.descriptor)


def test_a_directory_that_cannot_be_used_is_a_problem_of_this_lane(launch: Launch) -> None:
    owner = launch().start("owner", shm_directory="/nowhere/at/all")
    assert owner.problems["cuda_ipc"].startswith("cuda_ipc does not work: cannot make the directory /nowhere/at/all")
    assert "shm does not work" not in owner.problems["cuda_ipc"]


def test_lanes_of_host_memory_refuse(launch: Launch) -> None:
    lanes = ["shm", "cma", "message"]
    owner, reader = launch().start("owner", lanes=lanes), launch().start("reader", lanes=lanes)
    with pytest.raises(AgentError, match="message does not carry component kv from a GPU to a GPU"):
        reader.call("connect", descriptor=owner.descriptor)


def test_the_watermark_waits_for_the_stream(launch: Launch) -> None:
    """What a forward still writes is not read: the pull sees the contents after it."""
    owner, reader = launch(seed=9), launch(seed=10)
    connected(owner, reader)
    lease = owner.call("grant", blocks=[2], watermark=0)
    begun = time.monotonic()
    owner.call("write_later", leases=[lease], positions=TOKENS, seed=11, delay=1.0)
    assert time.monotonic() - begun < 0.9, "raise_watermark must not wait"
    reader.call("pull", lease=lease, remote=[2], local=[4], stop=TOKENS)
    assert (reader.contents()[:, 4] == owner.layout.random(11)[:, 2]).all()


def test_the_pull_waits_for_the_stream(launch: Launch) -> None:
    """What a stream still writes to the destination comes before the pull, not after it."""
    owner, reader = launch(seed=12), launch(seed=13)
    connected(owner, reader)
    lease = owner.call("grant", blocks=[2], watermark=TOKENS)
    result = reader.call("pull", lease=lease, remote=[2], local=[4], stop=TOKENS, busy=0.5)
    assert result["seconds"] >= 0.5
    assert (reader.contents()[:, 4] == owner.before[:, 2]).all()
    assert (reader.contents()[:, 5] == 0).all()


def test_the_engines_own_stream_has_nothing_to_do(launch: Launch) -> None:
    """Whoever gives it waits waits for nothing else, whatever other streams are busy with."""
    owner, reader = launch(seed=14), launch(seed=15)
    connected(owner, reader)
    lease = owner.call("grant", blocks=[2], watermark=TOKENS)
    result = reader.call("pull", lease=lease, remote=[2], local=[4], stop=TOKENS, busy=1.0, fence=True)
    assert result["seconds"] < 0.9
    with kt.Engine() as engine, pytest.raises(kt.ConfigError, match="no memory on a GPU"):
        assert engine.fence_stream


def test_a_destination_in_use_past_the_deadline(launch: Launch) -> None:
    owner, reader = launch(), launch()
    connected(owner, reader)
    lease = owner.call("grant", blocks=[2], watermark=TOKENS)
    with pytest.raises(AgentError, match="destination still in use by its deadline"):
        reader.call("pull", lease=lease, remote=[2], local=[4], stop=TOKENS, busy=1.5, timeout=0.3)


def test_a_lease_that_ended_under_way(launch: Launch, tmp_path: Path) -> None:
    """What was copied while the lease ended is never called valid."""
    owner, reader = launch(), launch()
    connected(owner, reader)
    lease = owner.call("grant", blocks=[0, 1, 2, 3], watermark=4 * TOKENS)
    stall = tmp_path / "stall"
    reader.call("stall_next_pull", file=str(stall))
    reader.call("start_pull", lease=lease, remote=[0, 1, 2, 3], local=[4, 5, 6, 7], stop=4 * TOKENS, timeout=20)
    until(stall.exists, "the pull is half-way")
    landed, total = map(int, stall.read_text().split())
    assert 0 < landed < total
    assert owner.call("revoke", lease=lease)
    stall.unlink()
    with pytest.raises(AgentError, match="no longer promises"):
        reader.call("end_of_pull")
    until(lambda: reader.call("pull_is_quiet"), "it is quiet")


def test_cancelled_under_way(launch: Launch, tmp_path: Path) -> None:
    owner, reader = launch(), launch()
    connected(owner, reader)
    lease = owner.call("grant", blocks=[0, 1, 2, 3], watermark=4 * TOKENS)
    reader.call("stall_next_pull", file=str(tmp_path / "stall"))
    reader.call("start_pull", lease=lease, remote=[0, 1, 2, 3], local=[4, 5, 6, 7], stop=4 * TOKENS, timeout=20)
    until((tmp_path / "stall").exists, "the pull is half-way")
    reader.call("cancel_pull")
    with pytest.raises(AgentError, match="was cancelled"):
        reader.call("end_of_pull")
    until(lambda: reader.call("pull_is_quiet"), "it is quiet")


def test_owner_killed_under_way(launch: Launch, tmp_path: Path) -> None:
    """The pull fails, and the reader serves on."""
    owner, reader = launch(seed=1), launch(seed=2)
    connected(owner, reader)
    lease = owner.call("grant", blocks=[0, 1, 2, 3], watermark=4 * TOKENS)
    reader.call("stall_next_pull", file=str(tmp_path / "stall"))
    reader.call("start_pull", lease=lease, remote=[0, 1, 2, 3], local=[4, 5, 6, 7], stop=4 * TOKENS, timeout=20)
    until((tmp_path / "stall").exists, "the pull is half-way")
    owner.process.kill()
    # Before that is known, what the pull has yet to copy may still be there, and its lease too.
    until(lambda: not reader.call("alive"), "the peer is lost")
    (tmp_path / "stall").unlink()
    with pytest.raises(AgentError, match="PeerLost"):
        reader.call("end_of_pull")
    another = launch(seed=3).start("another")
    assert reader.call("connect", descriptor=another.descriptor) == ["cuda_ipc"]
    lease = another.call("grant", blocks=[1], watermark=TOKENS)
    reader.call("pull", lease=lease, remote=[1], local=[0], stop=TOKENS)
    assert (reader.contents()[:, 0] == another.before[:, 1]).all()


def test_memory_of_a_lost_owner_is_let_go(launch: Launch, simulated: None) -> None:  # noqa: ARG001
    """Also while the peer object lives on."""
    owner, reader = launch(), launch()
    connected(owner, reader)
    assert reader.call("live", kind="imported") > 0
    os.kill(owner.process.pid, signal.SIGKILL)
    owner.process.kill()
    until(lambda: reader.call("live", kind="imported") == 0, "the owner's memory is let go")


def test_closing_gives_everything_back(launch: Launch, simulated: None) -> None:  # noqa: ARG001
    owner, reader = launch(), launch()
    owner.start("owner", pieces=2)
    reader.start("reader")
    reader.call("connect", descriptor=owner.descriptor)
    lease = owner.call("grant", blocks=[2], watermark=TOKENS)
    reader.call("pull", lease=lease, remote=[2], local=[4], stop=TOKENS)
    reader.call("close_peer")
    until(lambda: reader.call("live", kind="imported") == 0, "the owner's memory is let go")
    for engine in (owner, reader):
        engine.call("close")
        engine.call("forget")
        kinds = ("allocations", "host_allocations", "mappings", "handles", "streams", "events", "modules", "contexts")
        assert {kind: engine.call("live", kind=kind) for kind in kinds} == dict.fromkeys(kinds, 0)
        assert engine.call("live", kind="uses_after_free") == 0


def test_host_memory_is_no_gpu_memory(launch: Launch) -> None:
    with pytest.raises(AgentError, match=r"no memory that CUDA knows|not plain memory of a GPU"):
        launch().start("engine", disguised=True)


def test_an_owner_that_contradicts_itself(launch: Launch) -> None:
    """A descriptor says that a component is on a GPU, the welcome that its region is not: address 0 is never read."""
    owner, reader = launch().start("owner", spare=True), launch().start("reader")
    descriptor = bytearray.fromhex(owner.descriptor)
    # Behind the component's dtype: three other numbers, then its region.
    at = descriptor.index(b"uint8") + len(b"uint8") + 3 * 4
    assert descriptor[at : at + 4] == bytes(4)
    descriptor[at : at + 4] = (1).to_bytes(4, "little")
    with pytest.raises(AgentError, match="the owner's region 1 is not on its GPU"):
        reader.call("connect", descriptor=sealed(bytes(descriptor)).hex())
    assert reader.call("connect", descriptor=owner.descriptor) == ["cuda_ipc"]


def test_forks_leave_the_gpu_alone(launch: Launch) -> None:
    """What a forked child drops is its parent's, and no lock that a thread of the parent held stops it."""
    owner, reader = launch(seed=1), launch(seed=2)
    connected(owner, reader)
    # The GPU is asked all the time whether this is done.
    own = reader.call("grant", blocks=[0], watermark=0)
    reader.call("write_later", leases=[own], positions=TOKENS, seed=2, delay=2.0)
    for _ in range(20):
        assert reader.call("fork_and_forget", within=10) == 0
    lease = owner.call("grant", blocks=[2], watermark=TOKENS)
    reader.call("pull", lease=lease, remote=[2], local=[4], stop=TOKENS)
    assert (reader.contents()[:, 4] == owner.before[:, 2]).all()


def test_two_readers(launch: Launch) -> None:
    """Two readers of one owner at a time, each with an engine of its own."""
    owner, one, other = launch(seed=1), launch(seed=2), launch(seed=3)
    connected(owner, one)
    other.start("other")
    assert other.call("connect", descriptor=owner.descriptor) == ["cuda_ipc"]
    lease = owner.call("grant", blocks=[0, 3], watermark=2 * TOKENS)
    for _ in range(5):
        for reader in (one, other):
            reader.call("start_pull", lease=lease, remote=[0, 3], local=[6, 1], stop=2 * TOKENS, timeout=20)
        for reader in (one, other):
            reader.call("end_of_pull")
    for reader in (one, other):
        assert (reader.contents() == expected(owner, reader, [0, 3], [6, 1], 0, 2 * TOKENS)).all()


@pytest.mark.usefixtures("simulated")
def test_a_launch_waits_for_what_it_is_told(launch: Launch) -> None:
    """However slow the bus is beside the GPU, and also where that memory was another launch's before."""
    layout = GpuLayout(block=64)
    owner = launch(layout, 1)
    reader = launch(layout, 2, KVDIRECT_SIM_CUDA_UPLOAD_DELAY_US="20000")
    connected(owner, reader)
    for first in range(0, 48, 8):
        remote, local = list(range(first, first + 8)), list(range(first + 8, first, -1))
        lease = owner.call("grant", blocks=remote, watermark=8 * TOKENS)
        reader.call("pull", lease=lease, remote=remote, local=local, stop=8 * TOKENS)
        assert (reader.contents() == expected(owner, reader, remote, local, 0, 8 * TOKENS))[:, local].all()


@pytest.mark.usefixtures("simulated")
def test_the_kernel_has_run_before_the_first_pull(launch: Launch) -> None:
    """Its code is loaded by its first launch, which may wait for all that the GPU has to do."""
    owner = launch().start("owner")
    assert owner.call("live", kind="launches") == 2, "both kernels: that of little pulls too"


@pytest.mark.usefixtures("simulated")
def test_memory_is_recognised_where_the_driver_answers_only_in_a_context(launch: Launch) -> None:
    owner, reader = (launch(seed=seed, KVDIRECT_SIM_CUDA_POINTERS_NEED_CONTEXT="1") for seed in (1, 2))
    connected(owner, reader)


@pytest.mark.usefixtures("simulated")
def test_leases_of_a_step_share_its_mark(launch: Launch) -> None:
    """Both wait for the stream, one that has ended is passed over, and no more than one mark is made."""
    owner, reader = launch(seed=1), launch(seed=2)
    connected(owner, reader)
    leases = [owner.call("grant", blocks=[block], watermark=0) for block in (3, 4, 5)]
    owner.call("revoke", lease=leases[2])
    marks = owner.call("live", kind="events")
    owner.call("write_later", leases=leases, positions=TOKENS, seed=3, delay=0.5)
    assert owner.call("live", kind="events") == marks + 1
    later = owner.layout.random(3)
    for lease, block in zip(leases[:2], (3, 4), strict=True):
        reader.call("pull", lease=lease, remote=[block], local=[block], stop=TOKENS)
    assert all((reader.contents()[:, block] == later[:, block]).all() for block in (3, 4))


def test_engines_of_one_process_are_told_why_they_cannot(launch: Launch) -> None:
    said = launch().start("owner").call("connect_within")
    assert "cuda_ipc does not work: this process could not open the owner's memory" in said
    assert "engines of one process cannot map each other's GPU memory" in said
