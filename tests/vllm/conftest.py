# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""One tiny model and one pool of engines for all tests that need a real vLLM."""

from __future__ import annotations

import os
import signal
import uuid
from typing import TYPE_CHECKING

import pytest
from engines import AGGREGATED, DECODE, PREFILL, Engine, wait_until
from marked import processes_with
from pool import EnginePool, LookAhead

from kvdirect.harness.model import make_tiny_llama
from kvdirect.harness.processes import router
from kvdirect.keys.identity import generate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from engines import Spec

_POOL = pytest.StashKey[EnginePool]()


def pytest_collection_finish(session: pytest.Session) -> None:
    needs = {item.nodeid: specs for item in session.items if (specs := needed_by(item))}
    if needs and not session.config.option.collectonly:
        session.config.pluginmanager.register(LookAhead(needs, pool_of(session.config)))


def pool_of(config: pytest.Config) -> EnginePool:
    """The pool, whose model is made with it."""
    if _POOL not in config.stash:
        folder = config._tmp_path_factory.mktemp("engines")  # type: ignore[attr-defined]
        config.stash[_POOL] = EnginePool(make_tiny_llama(folder / "model"), folder)
        for name in ("owner", "reader"):
            generate(folder / f"{name}.key", name)
    return config.stash[_POOL]


def needed_by(item: pytest.Item) -> Sequence[Spec]:
    marker = item.get_closest_marker("engines")
    if marker is None:
        return ()
    return marker.args[0](item) if callable(marker.args[0]) else marker.args


def pytest_sessionfinish(session: pytest.Session) -> None:
    if pool := session.config.stash.get(_POOL, None):
        pool.stop_all()


@pytest.fixture(scope="session")
def pool(request: pytest.FixtureRequest) -> EnginePool:
    return pool_of(request.config)


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
def routed(owner: Engine, reader: Engine, tmp_path: Path) -> Iterator[str]:
    """The URL of a router in front of both."""
    process = router(owner.process, reader.process, tmp_path)
    process.start()
    try:
        wait_until(process.ready, "the router is ready")
        yield process.url
    finally:
        process.ask_to_stop()
        process.stop()


@pytest.fixture
def mark() -> Iterator[str]:
    """An environment variable by which everything that a program started can be found."""
    value = f"KVDIRECT_TEST_MARK={uuid.uuid4()}"
    yield value
    for pid in processes_with(value):
        os.kill(pid, signal.SIGKILL)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if pool := config.stash.get(_POOL, None):
        terminalreporter.write_line(
            f"vLLM engines started: {pool.starts}, in {pool.starting:.0f} s, of which tests waited {pool.waited:.0f} s"
        )
