# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Two loads for one GPU: a matrix product, and pulls, each over and over."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from . import gpu
from .errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable

# Products given to the GPU at once: few enough for the host to hear from it often.
_AT_ONCE = 8
_WARM_UP_SECONDS = 0.2
_JOIN_SECONDS = 60.0


class Product:
    """A product of two square bf16 matrices of random numbers, over and over."""

    def __init__(self, rows: int) -> None:
        """Make the matrices, and warm up."""
        self._torch = gpu.require_torch()
        self._left, self._right = (
            self._torch.randn(rows, rows, device="cuda", dtype=self._torch.bfloat16) for _ in range(2)
        )
        self._out = self._torch.empty_like(self._left)
        self._operations = 2.0 * rows**3
        self.rate(_WARM_UP_SECONDS)

    def rate(self, seconds: float) -> float:
        """10^12 operations a second, by CUDA events, over at least so long."""
        torch = self._torch
        began = ended = torch.cuda.Event(enable_timing=True)
        until = time.perf_counter() + seconds
        count = 0
        began.record()
        while count == 0 or time.perf_counter() < until:
            for _ in range(_AT_ONCE):
                torch.matmul(self._left, self._right, out=self._out)
            count += _AT_ONCE
            before, ended = ended, torch.cuda.Event(enable_timing=True)
            ended.record()
            # With another batch given to it already, so that the GPU never waits for the host.
            before.synchronize()
        ended.synchronize()
        return count * self._operations / (float(began.elapsed_time(ended)) / 1000) / 1e12


class Puller(threading.Thread):
    """Pulls over and over until it is told to stop."""

    def __init__(self, pull: Callable[[], object]) -> None:
        """`pull`: one pull, to its end."""
        super().__init__(daemon=True)
        self._pull = pull
        self._stopping = threading.Event()
        self._failed: Exception | None = None
        self._pulls = 0
        self._seconds = 0.0

    def run(self) -> None:
        """Count, and keep what went wrong for the other thread."""
        began = time.perf_counter()
        try:
            while not self._stopping.is_set():
                self._pull()
                self._pulls += 1
        except Exception as error:  # noqa: BLE001  (rate raises it again)
            self._failed = error
        self._seconds = time.perf_counter() - began

    def rate(self) -> float:
        """Stop; pulls a second.

        Raises:
            BenchError: A pull failed, or does not end.
        """
        self._stopping.set()
        self.join(_JOIN_SECONDS)
        if self.is_alive():
            raise BenchError(f"a pull did not end within {_JOIN_SECONDS:.0f} s")
        if self._failed is not None:
            raise BenchError(f"a pull failed: {self._failed}") from self._failed
        return self._pulls / self._seconds
