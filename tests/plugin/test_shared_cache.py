# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The context in which vLLM allocates its cache: that one allocation is shared, and nothing else changes."""

from __future__ import annotations

import pytest
import torch

from kvdirect.worker.shared_cache import SharedCache
from kvtransfer._native import core

LARGE = 3 << 20


def is_shared(tensor: torch.Tensor) -> bool:
    return core.large_pages(tensor.data_ptr(), tensor.nbytes) is not None


def test_the_cache_is_shared() -> None:
    with torch.inference_mode(), SharedCache():
        cache = torch.zeros(LARGE, dtype=torch.int8, device=torch.device("cpu"))
    assert is_shared(cache)
    assert (cache.shape, cache.dtype, int(cache.count_nonzero())) == ((LARGE,), torch.int8, 0)
    cache.view(torch.bfloat16)[7] = 2.0
    assert int(cache.count_nonzero()) == 1


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: torch.zeros(1000, dtype=torch.int8, device="cpu"),
        lambda: torch.zeros(LARGE, dtype=torch.int32, device="cpu"),
        lambda: torch.zeros((LARGE, 2), dtype=torch.int8, device="cpu"),
        lambda: torch.zeros(LARGE, dtype=torch.int8, device="cpu", pin_memory=False),
        lambda: torch.zeros(LARGE, dtype=torch.int8, device="meta"),
        lambda: torch.ones(LARGE, dtype=torch.int8, device="cpu"),
    ],
    ids=["small", "another type", "several axes", "more options", "another device", "another function"],
)
def test_all_else_is_as_it_was(allocate: object) -> None:
    assert callable(allocate)
    with SharedCache():
        tensor = allocate()
    assert not is_shared(tensor)
