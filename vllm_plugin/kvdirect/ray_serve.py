# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Ray Serve's connector backend: what each replica sets beside the configuration that all of them are given.

Import it where the application is built: `from kvdirect.ray_serve import build_pd_openai_app`. Ray keeps the name in
the cluster's store. Each replica looks it up there when it makes its engine, and imports this module itself.
"""

from __future__ import annotations

import secrets
from ipaddress import ip_address

import ray
from ray.llm._internal.serve.engines.vllm.kv_transfer.base import BaseConnectorBackend, DefaultPDProtocolMixin
from ray.llm._internal.serve.engines.vllm.kv_transfer.factory import KVConnectorBackendFactory
from ray.serve.llm import build_pd_openai_app

from kvtransfer.doctor.network import device_of

from .plugin import NAME

__all__ = ["KVDirectBackend", "build_pd_openai_app", "register"]


class KVDirectBackend(DefaultPDProtocolMixin, BaseConnectorBackend):
    """Prefill first, then decode with prefill's ticket: Ray's own way, and places that replicas do not share."""

    def setup(self) -> None:
        """Complete `kv_transfer_config` before its engine is made; what is set there stays.

        The handshake listens at any free port, for replicas may share a node. With keys (or on an open network) it
        does so at the node's address that Ray knows; without, engines deal only with others on their own node.
        """
        config = self.kv_transfer_config
        config.setdefault("kv_port", 0)
        if config.get("engine_id"):
            config["engine_id"] = f"{config['engine_id']}-{secrets.token_hex(4)}"
        # A copy: prefill's and decode's configuration may share one.
        extra = dict(config.get("kv_connector_extra_config") or {})
        if (extra.get("key_file") or extra.get("insecure_network")) and "host" not in extra:
            extra["host"] = address = ray.util.get_node_ip_address()
            extra.setdefault("listen", device_of(ip_address(address)))
        config["kv_connector_extra_config"] = extra


def register() -> None:
    """Make the backend known to this process, and with `ray.init` to the cluster; once is enough, more do no harm."""
    if not KVConnectorBackendFactory.is_registered(NAME):
        KVConnectorBackendFactory.register_backend(NAME, f"{__name__}:{KVDirectBackend.__name__}")


register()
