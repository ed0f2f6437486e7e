# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A short churn; `python tests/vllm/churn.py` is the long one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from churn import Options, churn, specs_of
from churn_mix import KINDS

if TYPE_CHECKING:
    from pool import EnginePool

OPTIONS = Options(requests=40, warm_up=20, seed=1, concurrency=8, first_term=15.0)

pytestmark = [pytest.mark.vllm, pytest.mark.engines(*specs_of(OPTIONS))]


def test_a_short_churn_leaves_nothing_behind(pool: EnginePool) -> None:
    found = churn(pool, OPTIONS)
    # Memory settles, and the caches overflow for certain, only in the long run; test_request_ends.py forces preemption.
    assert set(found["failed_checks"]) <= {"resident memory", "preempted"}, json.dumps(found, indent=2)
    assert set(found["kinds"]) == set(KINDS)
    assert {"completed", "expired"} <= set(found["leases"]["ended"])
