# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""One tiny model and one pool of engines for all tests that need a real vLLM."""

from __future__ import annotations

import os
import signal
import uuid
from typing import TYPE_CHECKING

import pytest
from engines import AGGREGATED, DECODE, PREFILL, Engine, EnginePool
from marked import processes_with

from kvdirect.harness.model import make_tiny_llama

if TYPE_CHECKING:
    from collections.abc import Iterator

_POOLS = pytest.StashKey[list[EnginePool]]()


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[EnginePool]:
    folder = tmp_path_factory.mktemp("engines")
    pool = EnginePool(make_tiny_llama(folder / "model"), folder)
    request.config.stash.setdefault(_POOLS, []).append(pool)
    yield pool
    pool.stop_all()


@pytest.fixture
def trio(pool: EnginePool) -> list[Engine]:
    """The aggregated engine to compare with, the owner and the reader."""
    return pool.get(AGGREGATED, PREFILL, DECODE)


@pytest.fixture
def aggregated(trio: list[Engine]) -> Engine:
    return trio[0]


@pytest.fixture
def owner(trio: list[Engine]) -> Engine:
    return trio[1]


@pytest.fixture
def reader(trio: list[Engine]) -> Engine:
    return trio[2]


@pytest.fixture
def mark() -> Iterator[str]:
    """An environment variable by which everything that a program started can be found."""
    value = f"KVDIRECT_TEST_MARK={uuid.uuid4()}"
    yield value
    for pid in processes_with(value):
        os.kill(pid, signal.SIGKILL)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for pool in config.stash.get(_POOLS, []):
        terminalreporter.write_line(f"vLLM engines started: {pool.starts}, in {pool.seconds:.0f} s")
