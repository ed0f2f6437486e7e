# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What single steps cost. `make bench` saves the figures and compares them with the last ones; none decides a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvdirect_bench.block_ids import scattered
from kvtransfer import Axis, Component, Plan, TensorMap

if TYPE_CHECKING:
    from conftest import Connect
    from pytest_benchmark.fixture import BenchmarkFixture

RUNS = 20_000
BLOCK = 4096


def raw_map() -> TensorMap:
    """Twice as many blocks as are planned, one token each."""
    axes = [Axis("block", 2 * RUNS, BLOCK), Axis("token", 1, BLOCK), Axis("element", BLOCK, 1)]
    return TensorMap([Component("k", axes, dtype="uint8", item_bytes=1)])


def test_connect(benchmark: BenchmarkFixture, connected: Connect) -> None:
    """Handshake, proof of every lane, and closing."""
    reader = connected(BLOCK)
    benchmark(reader.reconnect)


def test_instantiate(benchmark: BenchmarkFixture) -> None:
    """The pattern of two maps, worked out once when peers connect."""
    local, remote = raw_map(), raw_map()
    benchmark(Plan, local, [remote])


def test_plan(benchmark: BenchmarkFixture) -> None:
    """Block ids in, 20,000 runs out, as a NumPy array."""
    plan = Plan(raw_map(), [raw_map()])
    remote, local = scattered(RUNS, 2 * RUNS, 1.0, 1), scattered(RUNS, 2 * RUNS, 1.0, 2)
    rows = benchmark(plan.runs, 0, [remote], [local], 0, RUNS)
    assert len(rows) > RUNS // 2


def test_one_block(benchmark: BenchmarkFixture, connected: Connect, lane: str) -> None:
    """One block of 4 KiB, from the call to the validated end."""
    benchmark(connected(BLOCK, lane).pull)


def test_validate(benchmark: BenchmarkFixture, connected: Connect, lane: str) -> None:
    """One word: hardly more than asking whether the lease holds."""
    benchmark(connected(8, lane).pull)


def test_complete(benchmark: BenchmarkFixture, connected: Connect) -> None:
    """Saying that a lease is needed no more; nobody waits for an answer."""
    benchmark(connected(BLOCK).complete)
