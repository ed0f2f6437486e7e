# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What Ray Serve's replicas set, in an environment with Ray: `make ray-example`. No Ray runs for it."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed here; make ray-example has an environment with it")

import ray
from ray.llm._internal.serve.engines.vllm.kv_transfer.factory import KVConnectorBackendFactory
from ray.serve.llm import LLMConfig

from kvdirect import ray_serve
from kvdirect.config import parse_settings
from kvtransfer.doctor.network import device_of

KEYS = {"key_file": "/k", "peers_file": "/p"}


def set_up(extra: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """The configuration of an engine once its replica has set up the backend that Ray finds."""
    transfer = {"kv_connector": "kvdirect", "kv_role": "kv_both", **more}
    if extra is not None:
        transfer["kv_connector_extra_config"] = extra
    config = LLMConfig(
        model_loading_config={"model_id": "m"}, accelerator_type=None, engine_kwargs={"kv_transfer_config": transfer}
    )
    config.setup_engine_backend()
    assert type(config.kv_connector_backend) is ray_serve.KVDirectBackend
    found: dict[str, Any] = config.engine_kwargs["kv_transfer_config"]
    parse_settings(found["kv_connector_extra_config"])
    return found


def test_importing_registers_and_doing_so_again_does_no_harm() -> None:
    ray_serve.register()
    assert KVConnectorBackendFactory.get_backend_class("kvdirect") is ray_serve.KVDirectBackend


def test_replicas_of_one_node_take_any_port_and_stay_on_loopback() -> None:
    found = set_up()
    assert (found["kv_port"], found["kv_connector_extra_config"]) == (0, {})


def test_with_keys_they_listen_where_ray_says_the_node_is() -> None:
    address = ray.util.get_node_ip_address()
    for extra in (KEYS, {"insecure_network": True}):
        found = set_up(dict(extra))["kv_connector_extra_config"]
        assert found == {**extra, "host": address, "listen": device_of(ip_address(address))}
        assert found["listen"]


def test_what_is_set_stays() -> None:
    extra = {**KEYS, "host": "127.0.0.1", "listen": "lo", "lease_slots": 7}
    found = set_up(dict(extra), kv_port=14580)
    assert (found["kv_port"], found["kv_connector_extra_config"]) == (14580, extra)
    assert set_up({**KEYS, "listen": "lo"})["kv_connector_extra_config"]["listen"] == "lo"


def test_replicas_of_one_configuration_are_different_engines() -> None:
    shared = {**KEYS}
    ids = {set_up(shared, engine_id="pool")["engine_id"] for _ in range(3)}
    assert len(ids) == 3
    assert all(each.startswith("pool-") for each in ids)
    assert shared == KEYS, "prefill's and decode's may be one object"
    assert "engine_id" not in set_up(), "vLLM makes one up"
