# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The tests of test_pull.py on vLLM's model runner V2, which calls a connector in its own way; V1 runs elsewhere."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import pytest
import test_pull
from pool import EnginePool

if TYPE_CHECKING:
    from collections.abc import Iterator


def missing() -> str:
    """Why vLLM cannot run its model runner V2 here; empty if it can."""
    triton_utils = importlib.import_module("vllm.triton_utils")
    if triton_utils.HAS_TRITON:
        return ""
    try:
        backends = importlib.import_module("triton.backends").backends
    except ImportError:
        return "vLLM's model runner V2 needs triton, which is not installed"
    return f"vLLM's model runner V2 on the CPU needs a triton with a 'cpu' backend; this one has {', '.join(backends)}"


MISSING = missing()
pytestmark = [pytest.mark.vllm, pytest.mark.skipif(bool(MISSING), reason=MISSING)]


@pytest.fixture(scope="module")
def pool(pool: EnginePool) -> Iterator[EnginePool]:
    """Engines of their own: the usual ones for these tests have the model runner that vLLM chose."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
        folder = pool.folder / "v2"
        folder.mkdir()
        mine = EnginePool(pool.model, folder)
        yield mine
        mine.stop_all()


for _name, _test in vars(test_pull).items():
    if _name.startswith("test_"):
        globals()[_name] = _test
