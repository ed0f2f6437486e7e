# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What holds for all tests: cheap ones first, stacks of all processes where one hangs, and no descriptors left open."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ("stacks",)
# Of a file's tests. Fixtures of the whole session, and the connections that the router keeps to them, have some 180.
MAX_LEFT_OPEN = 256
# Longer than the router keeps connections that rest.
KEPT_SECONDS = 5.0


@pytest.fixture(scope="module", autouse=True)
def _descriptors_are_closed() -> Iterator[None]:
    """What is left open adds up over the files, until one of them fails for want of descriptors."""
    before = open_descriptors()
    yield
    left = open_descriptors() - before
    end = time.monotonic() + KEPT_SECONDS
    while left > MAX_LEFT_OPEN and time.monotonic() < end:
        gc.collect()
        time.sleep(0.1)
        left = open_descriptors() - before
    assert left <= MAX_LEFT_OPEN, f"the tests of this file left {left} descriptors open"


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with engines come last, wherever they lie: first those that share them, then those that start their own."""

    def cost(item: pytest.Item) -> int:
        if item.get_closest_marker("vllm") is None:
            return 0
        return 1 if item.get_closest_marker("engines") else 2

    items.sort(key=cost)
