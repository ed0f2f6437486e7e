# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Processes of their own on the simulated driver, and what is refused to them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import simulated_cuda as sim
from simulated_cuda import CudaError

if TYPE_CHECKING:
    from collections.abc import Callable

NEEDS_DRIVER = pytest.mark.skipif(
    not sim.library().exists(), reason=f"needs the simulated CUDA driver (make cpp-tests builds it): {sim.library()}"
)


def start(script: str, *arguments: str, fds: tuple[int, ...] = (), **settings: str) -> subprocess.Popen[str]:
    """A process that has entered the driver, as `cuda`, and then does what the script says."""
    head = "import ctypes, os, sys\nimport simulated_cuda as sim\nfrom simulated_cuda import *\ncuda = Cuda()\n"
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return subprocess.Popen(
        [sys.executable, "-c", head + script, *arguments],
        env={**environment, "PYTHONPATH": str(Path(__file__).parent), **settings},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=fds,
    )


def run(script: str, *arguments: str, fds: tuple[int, ...] = (), **settings: str) -> tuple[int, str, str]:
    with start(script, *arguments, fds=fds, **settings) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out.strip(), err


def refused(result: int, call: Callable[[], object]) -> None:
    with pytest.raises(CudaError) as caught:
        call()
    assert caught.value.result == result, caught.value
