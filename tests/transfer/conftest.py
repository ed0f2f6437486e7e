# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

import kvtransfer as kt
from kvtransfer import testing

from .harness import Remote
from .layout import RDMA_HERE, Cache, Layout, publish, shared
from .row_stores import reading, row_processes, stores  # noqa: F401  (fixtures)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Those of host memory; tests/gpu has the other.
LANES = tuple(lane for lane in kt.EngineConfig().lanes if lane != "cuda_ipc")
testing.rdma_over(RDMA_HERE)


class Launch(Protocol):
    def __call__(
        self,
        *,
        name: str = ...,
        seed: int = ...,
        layout: Layout | None = ...,
        inside: Sequence[str] = ...,
        share: bool = ...,
        **config: object,
    ) -> Remote: ...


class Here:
    """An engine in the test's own process, with a cache of its own."""

    def __init__(self, layout: Layout | None = None, *, seed: int = 1000, share: bool = True, **config: object) -> None:
        self.engine = kt.Engine(kt.EngineConfig(**config), name="reader")  # type: ignore[arg-type]
        cache = (layout or Layout()).make(seed)
        self.cache: Cache = shared(cache) if share else cache
        publish(self.engine, self.cache, layout=layout)
        self.before: Cache = self.cache.copy()

    def connect(self, remote: Remote, lane: str | None = None) -> kt.Peer:
        return self.engine.connect(remote.descriptor, lanes=None if lane is None else (lane,))


class MakeHere(Protocol):
    def __call__(
        self, layout: Layout | None = ..., *, seed: int = ..., share: bool = ..., **config: object
    ) -> Here: ...


@pytest.fixture(params=LANES)
def lane(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Starts engines in other processes; those still running at the end must end by themselves."""
    started: list[Remote] = []

    def start(
        *,
        name: str = "owner",
        seed: int = 1,
        layout: Layout | None = None,
        inside: Sequence[str] = (),
        share: bool = True,
        **config: object,
    ) -> Remote:
        started.append(Remote.launch(name=name, seed=seed, layout=layout, inside=inside, share=share, **config))
        return started[-1]

    yield start
    for remote in started:
        remote.process.stop()


@pytest.fixture
def here() -> Iterator[MakeHere]:
    """Makes engines in this process and closes them."""
    made: list[Here] = []

    def make(layout: Layout | None = None, *, seed: int = 1000, share: bool = True, **config: object) -> Here:
        made.append(Here(layout, seed=seed, share=share, **config))
        return made[-1]

    yield make
    for one in made:
        one.engine.close()


@pytest.fixture
def owner(launch: Launch) -> Remote:
    return launch()


@pytest.fixture
def reader(here: MakeHere) -> Here:
    return here()
