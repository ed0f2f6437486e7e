# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Configurations of vLLM that are refused at start, by the setting's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

from vllm.config import KVTransferConfig, VllmConfig
from vllm.engine.arg_utils import EngineArgs

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
