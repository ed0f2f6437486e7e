# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Memory on a GPU that readers have mapped, and when its owner frees it: after them, whatever becomes of them."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from transfer.harness import until

from .test_cuda_ipc import connected

if TYPE_CHECKING:
    from .conftest import GpuEngine
    from .test_cuda_ipc import Launch

pytestmark = pytest.mark.usefixtures("simulated")


def live(engine: GpuEngine, kind: str) -> int:
    return int(engine.call("live", kind=kind))


def close_and_free(owner: GpuEngine) -> None:
    owner.call("close")
    owner.call("forget")
    assert live(owner, "freed_while_open") == 0


def test_memory_is_freed_when_its_readers_have_let_it_go(launch: Launch) -> None:
    owner, one, other = launch(), launch(), launch()
    connected(owner, one)
    other.start("other").call("connect", descriptor=owner.descriptor)
    close_and_free(owner)
    assert live(owner, "allocations") == 0
    assert [live(reader, "imported") for reader in (one, other)] == [0, 0]


def test_two_engines_that_read_from_each_other_close_at_once(launch: Launch) -> None:
    one, other = launch(), launch()
    connected(one, other)
    one.call("connect", descriptor=other.descriptor)
    close_and_free(one)
    close_and_free(other)


def test_a_killed_reader_has_nothing_mapped(launch: Launch) -> None:
    owner, reader = launch(), launch()
    connected(owner, reader)
    os.kill(reader.process.pid, signal.SIGKILL)
    close_and_free(owner)
    assert live(owner, "allocations") == 0


def test_what_a_stopped_reader_has_mapped_is_kept_until_it_goes_on(launch: Launch) -> None:
    owner, reader = launch(), launch()
    connected(owner, reader)
    os.kill(reader.process.pid, signal.SIGSTOP)
    try:
        close_and_free(owner)
        assert live(owner, "allocations") > 0
        assert owner.call("engine_in_a_fork") == 0
    finally:
        os.kill(reader.process.pid, signal.SIGCONT)
    until(lambda: live(reader, "imported") == 0, "the reader has let go")
    owner.start("again")
    close_and_free(owner)
    assert live(owner, "allocations") == 0
