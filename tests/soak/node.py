# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""One process of a run: an engine that grants and reads, driven by JSON lines as the tests' agents are."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections import Counter
from pathlib import Path

from transfer.agent import serve
from transfer.layout import publish, shared

import kvtransfer as kt

from .cache import READING_THREADS, layout
from .notices import SHARDS, Notices
from .owning import MAX_HOLD, SLOTS, Owning
from .reading import LANES, Reading


class Node:
    """Every public method is a command."""

    def __init__(self) -> None:
        faulthandler.register(signal.SIGUSR1)  # what it is doing, where it does not say so any more
        self._halves: list[Owning | Reading] = []

    def start(self, name: str, folder: str, seed: int, pace: float) -> int:
        """Its incarnation; it rests until `go`."""
        notices = Notices(Path(folder))
        shard = SHARDS.index(name) if name in SHARDS else None
        config = kt.EngineConfig(lanes=LANES, max_hold=MAX_HOLD, lease_slots=SLOTS, copy_threads=2, message_streams=2)
        self._engine = kt.Engine(config, name=name)
        shape = layout(shard)
        cache = shared(shape.make(seed))
        publish(self._engine, cache, layout=shape)
        self._owning = Owning(name, shard, self._engine, cache, notices, seed)
        self._halves = [self._owning]
        if shard is None:
            self._halves += [
                Reading(name, thread, self._engine, cache, notices, seed + 1 + thread, pace)
                for thread in range(READING_THREADS)
            ]
        notices.publish(name, self._engine.descriptor())
        return self._engine.incarnation

    def go(self) -> None:
        for half in self._halves:
            half.start()

    def part(self) -> None:
        """End all threads, and the connections to owners."""
        for half in self._halves:
            half.stop()

    def leaked(self) -> dict[str, int]:
        return self._owning.leaked()

    def fill_table(self) -> None:
        self._owning.fill_table()

    def fork(self, seconds: float) -> int:
        """A child that does nothing, and has whatever a fork leaves it; its pid."""
        child = os.fork()
        if child == 0:
            os.closerange(0, 3)
            time.sleep(seconds)
            os._exit(0)
        return child

    def reap(self) -> None:
        """Children that have ended are no more."""
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG) == (0, 0):
                    return
            except ChildProcessError:
                return

    def tally(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        for half in self._halves:
            total.update(dict(half.tally))
        return dict(total)

    def counters(self) -> dict[str, int]:
        return self._engine.counters()


if __name__ == "__main__":
    serve(Node)
