# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Configurations of vLLM that are refused at start, by the setting's name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

from vllm.config import KVTransferConfig, VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.distributed.kv_transfer.kv_connector.v1.multi_connector import MultiConnector
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.kv_cache_interface import KVCacheConfig

from kvdirect import plugin
from kvdirect.support import check_supported
from kvtransfer.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def config(model: Path, **transfer: str) -> VllmConfig:
    settings = KVTransferConfig(kv_connector="kvdirect", kv_role="kv_both", **transfer)
    return EngineArgs(model=str(model), kv_transfer_config=settings).create_engine_config()


@pytest.mark.parametrize(("buffer", "device"), [("cpu", "cpu"), ("cuda", "cuda"), ("cuda", "cpu")])
def test_buffers_that_are_none_are_accepted(model: Path, buffer: str, device: str) -> None:
    """On the host the setting never meant anything."""
    check_supported(config(model, kv_buffer_device=buffer), device)


def test_a_buffer_on_the_host_is_refused_for_a_cache_that_is_not_there(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"kv_buffer_device='cpu' .*on cuda.*Leave kv_buffer_device out"):
        check_supported(config(model, kv_buffer_device="cpu"), "cuda")


def test_sleep_mode_is_refused(model: Path) -> None:
    """Newer versions of vLLM ask the connector's class; older ones would just unmap the cache."""
    sleeping = config(model)
    sleeping.model_config.enable_sleep_mode = True
    with pytest.raises(ConfigError, match=r"enable_sleep_mode.*without --enable-sleep-mode"):
        check_supported(sleeping, "cpu")


def beside(model: Path, *connectors: dict[str, Any]) -> VllmConfig:
    """One engine with these connectors."""
    plugin.register()
    several = {"connectors": list(connectors)}
    settings = KVTransferConfig(kv_connector="MultiConnector", kv_role="kv_both", kv_connector_extra_config=several)
    return EngineArgs(model=str(model), kv_transfer_config=settings).create_engine_config()


def ours(role: str) -> dict[str, Any]:
    return {"kv_connector": "kvdirect", "kv_role": role, "kv_port": 0}


@pytest.mark.parametrize("other", ["OffloadingConnector", "NixlConnector", "ExampleConnector"])
def test_the_layout_has_the_name_that_other_connectors_give_it(model: Path, other: str) -> None:
    """vLLM compares names, and does not start an engine for which two are wanted."""
    config = beside(model, ours("kv_both"), {"kv_connector": other, "kv_role": "kv_both"})
    assert MultiConnector.get_required_kvcache_layout(config) == "LBHNC"


@pytest.mark.parametrize(
    ("roles", "what"),
    [
        (["kv_producer", "kv_producer"], "lends: kv_role is kv_producer, kv_producer"),
        (["kv_consumer", "kv_both"], "reads: kv_role is kv_both, kv_consumer"),
        (["kv_consumer", "kv_producer", "kv_producer"], "lends: kv_role is kv_consumer, kv_producer, kv_producer"),
    ],
)
def test_two_of_ours_that_do_the_same_are_refused(model: Path, roles: list[str], what: str) -> None:
    config = beside(model, *map(ours, roles))
    cache = KVCacheConfig(num_blocks=4, kv_cache_tensors=[], kv_cache_groups=[])
    for role in KVConnectorRole:
        with pytest.raises(ConfigError, match=f"more than one kvdirect connector of this engine {what}"):
            MultiConnector(config, role, cache)


def test_one_that_reads_and_one_that_lends_are_accepted(model: Path) -> None:
    config = beside(model, ours("kv_consumer"), ours("kv_producer"))
    for _ in range(2):  # engines of their own, in one process
        cache = KVCacheConfig(num_blocks=4, kv_cache_tensors=[], kv_cache_groups=[])
        MultiConnector(config, KVConnectorRole.SCHEDULER, cache).shutdown()
        MultiConnector(config, KVConnectorRole.WORKER, cache).shutdown()
