# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The soak in short, so that it works when it is wanted, and that it sees what it is to see."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from transfer.harness import TESTS, child_environment

from .cache import AREAS, GUARD, TABLES, destination, guarded, holds, layout, stamp
from .vitals import LEAST_SECONDS, MIB, WARM_UP_SECONDS, Growth

EPOCH = 0x1234567890ABCDEF


def test_everything_holds_for_some_seconds_with_a_fault_in_each() -> None:
    command = [sys.executable, "-m", "soak", "--minutes", "0.15", "--kill-every", "4"]
    ended = subprocess.run(command, cwd=TESTS, env=child_environment(), capture_output=True, timeout=300, check=False)
    summary = json.loads(ended.stdout)
    assert (summary["clean"], ended.returncode) == (True, 0), f"{ended.stdout.decode()}\n{ended.stderr.decode()}"
    assert sum(count for what, count in summary["injected"].items() if what.startswith("kill")) == 2
    for lane, ends in summary["pulls"].items():
        assert ends["accepted"] > 0, lane
        assert ends["LeaseExpired"] > 0, lane


@pytest.mark.parametrize("shard", [None, 0, 1])
def test_one_wrong_word_is_seen(shard: int | None) -> None:
    area = len(AREAS) - 1
    cache = layout(None).make(1)
    own = cache if shard is None else cache[..., 2 * shard : 2 * shard + 2, :]
    stamp(own, area, EPOCH, shard)
    assert holds(cache, TABLES[area], EPOCH, shard, 3, 900)
    assert not holds(cache, TABLES[area], EPOCH + 1, shard, 3, 900)
    own[1, 1, TABLES[area][899 // 16], 899 % 16, 1, 7] ^= 1
    assert not holds(cache, TABLES[area], EPOCH, shard, 3, 900)
    assert holds(cache, TABLES[area], EPOCH, shard, 3, 899)


def test_one_word_written_late_is_seen() -> None:
    cache = layout(None).make(1)
    place = destination(1, 2)
    cache[:, :, place] = GUARD
    assert guarded(cache, place)
    cache[1, 0, place[-1], 15, 3, 15] = 0
    assert not guarded(cache, place)


def test_growth_is_told_once_a_process_is_warm() -> None:
    growth = Growth()
    times = np.arange(0.0, WARM_UP_SECONDS + LEAST_SECONDS + 10)
    growth.samples = [(float(when), int(2 * MIB * when / 60)) for when in times]
    assert growth.slope() == pytest.approx(2.0, rel=0.01)
    growth.samples = growth.samples[: int(LEAST_SECONDS)]
    assert growth.slope() is None
