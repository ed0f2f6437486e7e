# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""How a pull comes to a GPU: planned and launched in parts, told in memory or in parameters, and seen to end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from transfer.harness import AgentError

from .gpu_layout import GpuLayout
from .test_cuda_ipc import TOKENS, connected

if TYPE_CHECKING:
    from .test_cuda_ipc import Launch

SMALL = GpuLayout(layer=1, block=80000, token=TOKENS, head=1, element=4)


def scattered(seed: int, count: int) -> list[int]:
    """So many blocks of SMALL, in no order."""
    return [int(block) for block in np.random.default_rng(seed).permutation(SMALL.block)[:count]]


@pytest.mark.parametrize("copy", ["kernel", "bulk", "batch"])
@pytest.mark.parametrize(
    "late", [{}, {"KVDIRECT_SIM_CUDA_DELAY_US": "50000"}, {"KVDIRECT_SIM_CUDA_UPLOAD_DELAY_US": "20000"}]
)
def test_planned_and_copied_in_parts(launch: Launch, copy: str, late: dict[str, str]) -> None:
    """Also where the GPU is so slow that there is no room for the last of them, or the bus."""
    owner = launch(SMALL, 5)
    reader = launch(SMALL, 6, **late)
    connected(owner, reader, cuda_copy=copy)
    remote, local = scattered(1, 70000), scattered(2, 70000)
    lease = owner.call("grant", blocks=remote, watermark=70000 * TOKENS)
    result = reader.call("pull", lease=lease, remote=remote, local=local, stop=70000 * TOKENS)
    assert (result["runs"], result["bytes"]) == (70000, 70000 * TOKENS * 4)
    wanted = reader.before.copy()
    wanted[:, local] = owner.before[:, remote]
    assert (reader.contents() == wanted).all()


def test_planned_before_its_blocks_are_final(launch: Launch) -> None:
    """Nobody reads the caller's tables once the call is over."""
    owner, reader = launch(SMALL, 5), launch(SMALL, 6)
    connected(owner, reader)
    remote, local = scattered(1, 20000), scattered(2, 20000)
    lease = owner.call("grant", blocks=remote, watermark=0)
    reader.call("start_pull", lease=lease, remote=remote, local=local, stop=20000 * TOKENS, timeout=20)
    owner.call("write_later", leases=[lease], positions=20000 * TOKENS, seed=7, delay=0.1)
    assert reader.call("end_of_pull") == 20000 * TOKENS * 4
    wanted = reader.before.copy()
    wanted[:, local] = owner.layout.random(7)[:, remote]
    assert (reader.contents() == wanted).all()


@pytest.mark.usefixtures("simulated")
def test_what_a_later_part_refuses_is_raised_once_nothing_is_under_way(launch: Launch) -> None:
    owner, reader = launch(SMALL, 5), launch(SMALL, 6, KVDIRECT_SIM_CUDA_DELAY_US="100000")
    connected(owner, reader)
    remote, local = scattered(1, 5000), scattered(2, 5000)
    lease = owner.call("grant", blocks=remote, watermark=5000 * TOKENS)
    launches = reader.call("live", kind="launches")
    wrong = [*remote[:-1], SMALL.block]
    with pytest.raises(AgentError, match=r"PlanError.*remote block table 0 entry 4999 is 80000"):
        reader.call("start_pull", lease=lease, remote=wrong, local=local, stop=5000 * TOKENS, timeout=20)
    assert reader.call("live", kind="launches") == launches + 1, "the first part did not wait for the second's plan"
    wanted = reader.before.copy()
    wanted[:, local[:4096]] = owner.before[:, remote[:4096]]
    assert (reader.contents() == wanted).all(), "what was launched was waited for"
    reader.call("pull", lease=lease, remote=remote, local=local, stop=5000 * TOKENS)
    wanted[:, local] = owner.before[:, remote]
    assert (reader.contents() == wanted).all()


@pytest.mark.usefixtures("simulated")
def test_what_little_pulls_are_told_goes_along_with_the_launch(launch: Launch) -> None:
    owner, reader = launch(SMALL, 1), launch(SMALL, 2)
    connected(owner, reader)
    uploads = reader.call("live", kind="uploads")
    wanted = reader.before.copy()
    for count in (1, 1000, 2000):
        remote, local = scattered(count, count), scattered(count + 1, count)
        lease = owner.call("grant", blocks=remote, watermark=count * TOKENS)
        reader.call("pull", lease=lease, remote=remote, local=local, stop=count * TOKENS)
        wanted[:, local] = owner.before[:, remote]
    assert (reader.contents() == wanted).all()
    assert reader.call("live", kind="uploads") == uploads, "2000 blocks go along in 32 KiB"
    remote, local = scattered(1, 3000), scattered(2, 3000)
    lease = owner.call("grant", blocks=remote, watermark=3000 * TOKENS)
    reader.call("pull", lease=lease, remote=remote, local=local, stop=3000 * TOKENS)
    wanted[:, local] = owner.before[:, remote]
    assert (reader.contents() == wanted).all()
    assert reader.call("live", kind="uploads") == uploads + 1


@pytest.mark.usefixtures("simulated")
def test_what_takes_long_is_looked_at_seldom(launch: Launch) -> None:
    """Once it is known how long: a first pull is looked at every 25 us, some thousand times in 0.4 seconds."""
    owner, reader = launch(SMALL, 1), launch(SMALL, 2, KVDIRECT_SIM_CUDA_DELAY_US="200000")
    connected(owner, reader)
    lease = owner.call("grant", blocks=[1], watermark=TOKENS)
    reader.call("pull", lease=lease, remote=[1], local=[2], stop=TOKENS)
    looks = reader.call("live", kind="looks")
    reader.call("pull", lease=lease, remote=[1], local=[3], stop=TOKENS)
    assert reader.call("live", kind="looks") - looks < 1000
    assert (reader.contents()[:, 3] == owner.before[:, 1]).all()
