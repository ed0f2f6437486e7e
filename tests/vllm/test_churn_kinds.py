# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A short churn on caches that forget, between engines of other ranks; `python tests/vllm/churn.py` is the long one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from churn import Options, churn
from churn_engines import MODELS
from churn_mix import KINDS
from pool import EnginePool

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.vllm, pytest.mark.kinds]


@pytest.mark.parametrize("model", ["window", "state"])
def test_a_short_churn_between_unequal_ranks_leaves_nothing_behind(model: str, tmp_path: Path) -> None:
    options = Options(requests=60, warm_up=60, seed=1, concurrency=8, first_term=15.0, model=model, ranks=(1, 2))
    pool = EnginePool(MODELS[model].make(tmp_path / "model"), tmp_path)
    try:
        found = churn(pool, options)
    finally:
        pool.stop_all()
    # Memory settles in the long run only.
    assert set(found["failed_checks"]) <= {"resident memory"}, json.dumps(found, indent=2)
    assert set(found["kinds"]) == set(KINDS)
    assert {"completed", "expired"} <= set(found["leases"]["ended"])
