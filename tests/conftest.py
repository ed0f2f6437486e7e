# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What holds for all tests: cheap ones first, and stacks of all processes where one hangs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

pytest_plugins = ("stacks",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with engines come last, wherever they lie: first those that share them, then those that start their own."""

    def cost(item: pytest.Item) -> int:
        if item.get_closest_marker("vllm") is None:
            return 0
        return 1 if item.get_closest_marker("engines") else 2

    items.sort(key=cost)
