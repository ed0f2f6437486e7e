# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""An owner in a process of its own, and a reader in this one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from kvdirect_bench.backends.base import Settings
from kvdirect_bench.backends.kvdirect_backend import KVDirectReader
from kvdirect_bench.contenders import lane_contender
from kvdirect_bench.errors import WorkerError
from kvdirect_bench.process import LocalHost, Process
from kvdirect_bench.workload import Workload
from kvtransfer.config import KNOWN_LANES
from kvtransfer.errors import LaneError

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED = 1


class Connect(Protocol):
    def __call__(self, block_bytes: int, lane: str = ...) -> KVDirectReader: ...


@pytest.fixture(params=KNOWN_LANES)
def lane(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def connected() -> Iterator[Connect]:
    """Makes readers that are connected, with one leased block to pull."""
    readers: list[KVDirectReader] = []
    owners: list[Process] = []

    def connect(block_bytes: int, lane: str = "message") -> KVDirectReader:
        workload = Workload("raw", 1, 1, 1, 1, 1, block_bytes, 1.0, "default")
        settings = Settings(variant=lane)
        try:
            owner = LocalHost({}).open(lane_contender(lane), "owner", workload, settings)
            owners.append(owner)
            reader = KVDirectReader(workload, settings)
            reader.start(owner.call("start"))
        except (WorkerError, LaneError) as error:
            pytest.skip(f"lane {lane} does not work here: {error}")
        readers.append(reader)
        reader.aim(SEED, owner.call("offer", seed=SEED))
        return reader

    yield connect
    for reader in readers:
        reader.close()
    for owner in owners:
        owner.stop()
