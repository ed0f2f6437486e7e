# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""NVIDIA Dynamo's worker refuses connectors that its table lacks; a process that has both gets ours into it."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from real_dynamo import dynamo_here
from vllm.config import KVTransferConfig

from kvdirect import plugin

OURS = {"kv_connector": "kvdirect", "kv_role": "kv_both"}
BESIDE = {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}


def config(*connectors: dict[str, str]) -> SimpleNamespace:
    """What Dynamo asks of an engine's configuration; several are under vLLM's MultiConnector."""
    if len(connectors) == 1:
        return SimpleNamespace(kv_transfer_config=KVTransferConfig(**connectors[0]))
    extra: dict[str, Any] = {"connectors": list(connectors)}
    several = KVTransferConfig(kv_connector="MultiConnector", kv_role="kv_both", kv_connector_extra_config=extra)
    return SimpleNamespace(kv_transfer_config=several)


@pytest.mark.parametrize("connectors", [(OURS,), (OURS, BESIDE), (BESIDE, OURS)], ids=["alone", "before", "behind"])
def test_requests_for_us_are_as_those_for_nixl(connectors: tuple[dict[str, str], ...]) -> None:
    with dynamo_here() as dynamo:
        with pytest.raises(ValueError, match="kvdirect"):
            dynamo.make_kv_connector_protocol(config(*connectors))
        plugin.register()
        plugin.register()
        ours = dynamo.make_kv_connector_protocol(config(*connectors))
        nixl = dynamo.make_kv_connector_protocol(config({"kv_connector": "NixlConnector", "kv_role": "kv_both"}))
        assert type(ours) is type(nixl)
        assert ours.prefill_request_kv_transfer_params() == nixl.prefill_request_kv_transfer_params()
        with pytest.raises(ValueError, match="SomeConnector"):
            dynamo.make_kv_connector_protocol(config({"kv_connector": "SomeConnector", "kv_role": "kv_both"}))


def test_what_a_dynamo_of_its_own_has_for_us_stays() -> None:
    with dynamo_here() as dynamo:
        dynamo.KV_CONNECTOR_PROTOCOLS["kvdirect"] = theirs = object()
        plugin.register()
        assert dynamo.KV_CONNECTOR_PROTOCOLS["kvdirect"] is theirs


def test_a_dynamo_without_that_table_is_told(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("vllm.kvdirect").addHandler(caplog.handler)  # vLLM's loggers do not propagate
    with dynamo_here() as dynamo:
        del dynamo.KV_CONNECTOR_PROTOCOLS
        plugin.register()
    assert "has no table KV_CONNECTOR_PROTOCOLS" in caplog.text
    assert "dynamo.vllm.kv_connector_protocols" not in sys.modules
