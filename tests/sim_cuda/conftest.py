# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The simulated CUDA driver: what the tests of lane cuda_ipc rest on where there is no GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import simulated_cuda as sim
from simulated_cuda import Cuda

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def cuda() -> Iterator[Cuda]:
    driver = Cuda()
    before = {kind: driver.live(kind) for kind in sim.KINDS}
    driver.enter()
    yield driver
    # A context takes with it what it has; tests give back all by themselves.
    left = {kind: driver.live(kind) for kind in sim.KINDS}
    driver.leave()
    assert left == {**before, "contexts": before["contexts"] + 1}
