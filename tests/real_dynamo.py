# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The part of NVIDIA Dynamo's vLLM worker that knows connectors: its own file, which `make test` fetches."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = "1.6.1"
_NAME = "dynamo.vllm.kv_connector_protocols"
_FILE = Path(__file__).resolve().parents[1] / f"build/dynamo-{VERSION}/dynamo/vllm/kv_connector_protocols.py"


@contextlib.contextmanager
def dynamo_here() -> Iterator[Any]:
    """That module, loaded as a Dynamo worker has it when it makes vLLM load its plugins."""
    if not _FILE.exists():
        pytest.skip(f"there is no {_FILE}; `make test` fetches it")
    spec = importlib.util.spec_from_file_location(_NAME, _FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[_NAME]
