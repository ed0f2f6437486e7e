# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""How a worker's connector tells vLLM of pulls that failed: by request, and to callers without requests by blocks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

from played_worker import NAMES, SPEC, fresh, small_cache
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.v1.kv_cache_interface import KVCacheGroupSpec

from kvdirect.connector import KVDirectConnector
from kvdirect.harness.processes import free_port
from kvdirect.metadata import Hold, OwnerAddress, PullOrder, StepMetadata

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ONE_GROUP, TWO_GROUPS = [NAMES], [[name] for name in NAMES]


def nobody() -> OwnerAddress:
    """An owner that is gone."""
    return OwnerAddress("127.0.0.1", free_port(), "gone", 1)


@pytest.fixture
def connector(request: pytest.FixtureRequest, model: Path) -> Iterator[KVDirectConnector]:
    """One that has been told to pull two requests; its cache is in as many groups as the parameter has."""
    config, cache, tensors = small_cache(model, "kv_consumer")
    config.kv_transfer_config.kv_connector_extra_config = {"handshake_timeout": 1.0}
    cache.kv_cache_groups = [KVCacheGroupSpec(layers, SPEC) for layers in request.param]
    made = KVDirectConnector(config, KVConnectorRole.WORKER, cache)
    made.register_kv_caches(tensors)
    groups, step = len(request.param), StepMetadata()
    for number in (1, 2):
        step.holds.append(Hold(f"r{number}", nobody(), fresh()))
        local = tuple([4 * number + 2 * group, 4 * number + 2 * group + 1] for group in range(groups))
        step.pulls.append(PullOrder(f"r{number}", ((3, 4),) * groups, local, 0, 64, 63))
    made.bind_connector_metadata(step)
    yield made
    made.shutdown()


def until(connector: KVDirectConnector, asked: Any) -> list[Any]:  # noqa: ANN401
    """What steps say, until both requests are through."""
    said, received, deadline = [], set(), time.monotonic() + 30.0
    while received != {"r1", "r2"}:
        assert time.monotonic() < deadline
        said.append(asked())
        received |= (said[-1][1] if isinstance(said[-1], tuple) else said[-1].finished_recving) or set()
        connector.bind_connector_metadata(StepMetadata())
        time.sleep(0.01)
    return said


@pytest.mark.parametrize("connector", [ONE_GROUP, TWO_GROUPS], indirect=True, ids=["one group", "two groups"])
def test_requests_are_named(connector: KVDirectConnector) -> None:
    said = until(connector, lambda: connector.get_transfer_results(set()))
    assert sorted(name for results in said for name in results.finished_recving or ()) == ["r1", "r2"], "each once"
    assert all(results.failed_recving == results.finished_recving for results in said)
    assert connector.get_block_ids_with_load_errors() == set(), "each failure is told in one way"


@pytest.mark.parametrize(
    ("connector", "blocks"),
    [(ONE_GROUP, {4, 5, 8, 9}), (TWO_GROUPS, set())],
    indirect=["connector"],
    ids=["one group", "two groups"],
)
def test_callers_without_requests_get_blocks_where_they_mean_one_thing(
    connector: KVDirectConnector, blocks: set[int]
) -> None:
    """Of several groups vLLM ends the engine over block ids, whatever they are."""
    said = until(connector, lambda: connector.get_finished(set()))
    assert all(sent is None for sent, _ in said)
    assert connector.get_block_ids_with_load_errors() == blocks
    assert connector.get_block_ids_with_load_errors() == set()
