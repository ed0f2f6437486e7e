# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Which configurations of vLLM the connector serves; all others are refused at start, by the setting's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvtransfer.errors import ConfigError

if TYPE_CHECKING:
    from vllm.config import VllmConfig


def check_supported(vllm_config: VllmConfig, device_type: str) -> None:
    """Accept this engine, on this kind of device ("cpu", "cuda"), or say why not.

    Raises:
        ConfigError: Naming the setting, its value and what to do.
    """
    parallel, transfer = vllm_config.parallel_config, vllm_config.kv_transfer_config
    for name in ("decode_context_parallel_size", "prefill_context_parallel_size"):
        size = getattr(parallel, name, 1)
        if size != 1:
            raise ConfigError(
                f"{name}={size}: the kvdirect connector supports 1 only in this version",
                operation="start",
                hint=f"Start this engine with {name} 1, or without the connector",
            )
    if transfer.kv_buffer_device == "cpu" and device_type != "cpu":
        raise ConfigError(
            f"kv_buffer_device='cpu' with a KV cache on {device_type}: the kvdirect connector moves it from one cache "
            "into the other, and has no buffer in host memory",
            operation="start",
            hint="Leave kv_buffer_device out of the kv-transfer-config",
        )
    if vllm_config.model_config.enable_sleep_mode:
        raise ConfigError(
            "enable_sleep_mode: an engine that sleeps unmaps its KV cache, which others may be reading",
            operation="start",
            hint="Start this engine without --enable-sleep-mode, or without the connector",
        )
