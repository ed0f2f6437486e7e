# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What several files of unit tests need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kvdirect.harness.model import make_tiny_llama

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of one layer."""
    return make_tiny_llama(tmp_path_factory.mktemp("model") / "m", layers=1)
