# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Lets vLLM's KV cache on CPU be born in shared memory, so that engines on the same host can map it (lane shm)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

import kvtransfer
from kvdirect.log import logger
from kvtransfer.errors import KVTransferError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# The cache is by far the largest of what vLLM allocates meanwhile; smaller ones gain nothing.
_SMALLEST = 1 << 20


class SharedCache(TorchFunctionMode):
    """While it is active, a large `torch.zeros(n, dtype=torch.int8)` on the CPU is shared memory.

    That is how vLLM allocates the cache, in one piece. Should another version do it in another way, nothing is shared
    and another lane is taken.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Answer the one call; pass on all others."""
        del types
        given = kwargs or {}
        if func is torch.zeros and _is_cache(args, given):
            try:
                return torch.from_numpy(kvtransfer.empty(args[0], "int8"))
            except KVTransferError as error:
                logger.warning("the KV cache is not shared with engines on this host: %s", error)
        return func(*args, **given)


def _is_cache(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if len(args) != 1 or not isinstance(args[0], int) or args[0] < _SMALLEST or set(kwargs) - {"dtype", "device"}:
        return False
    device = kwargs.get("device")
    return kwargs.get("dtype") is torch.int8 and device is not None and torch.device(device).type == "cpu"
