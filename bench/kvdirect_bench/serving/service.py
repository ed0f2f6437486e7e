# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""One contender's engines and router: started together, still while others have their turn, never left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvdirect_bench.errors import BenchError

from .engine_metrics import EngineMetrics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvdirect.harness.processes import ManagedProcess

_WAKE_DEADLINE = 60.0
_PAUSE = 0.02


@dataclass(slots=True)
class Service:
    """What answers requests for one contender.

    Attributes:
        name: Of the contender.
        prefill: None: the other engine does both.
        decode: The engine that decodes.
        router: In front of them.
        histogram: Of the decode engine, with the times of transfers; "" where there are none.
    """

    name: str
    prefill: ManagedProcess | None
    decode: ManagedProcess
    router: ManagedProcess
    histogram: str

    @property
    def url(self) -> str:
        """Where requests go."""
        return self.router.url

    @property
    def processes(self) -> list[ManagedProcess]:
        """All of them, in the order in which they start."""
        return [*([] if self.prefill is None else [self.prefill]), self.decode, self.router]

    def watch(self) -> EngineMetrics:
        """Start reading the decode engine's metrics; what it did before does not count."""
        return EngineMetrics(self.decode.url, self.histogram, self.decode.log)

    def rest(self) -> None:
        """Stop every process where it is: idle engines look after their peers, and some poll all the time."""
        for process in reversed(self.processes):
            _signal(process, signal.SIGSTOP)

    def wake(self) -> None:
        """Let them go on."""
        for process in self.processes:
            _signal(process, signal.SIGCONT)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Awake and ready inside, at rest outside.

        Raises:
            BenchError: It does not get ready again.
        """
        self.wake()
        deadline = time.monotonic() + _WAKE_DEADLINE
        for process in self.processes:
            while not process.ready():
                if time.monotonic() > deadline:
                    raise BenchError(f"{process.name} did not go on in {_WAKE_DEADLINE:.0f} s; {process.last_words()}")
                time.sleep(_PAUSE)
        yield
        self.rest()


def _signal(process: ManagedProcess, number: signal.Signals) -> None:
    if process.group:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.group, number)
