# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What holds for all tests: cheap ones first, and stacks of all processes where one hangs."""

from __future__ import annotations

import pytest

pytest_plugins = ("stacks",)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start engines come last, wherever they lie."""
    items.sort(key=lambda item: item.get_closest_marker("vllm") is not None)
