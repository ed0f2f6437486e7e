# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The processes of a run: started, killed and started again under the same names, and looked at."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from transfer.harness import Process
from transfer.relay import Relay

from .notices import NODES, Notices
from .vitals import Growth, held

if TYPE_CHECKING:
    import random
    from pathlib import Path

# Readers that reach an owner through a relay.
RELAYED = (("b", "r2"), ("a0", "r1"))
# Beyond this a thread of a node hangs; its waits are all much shorter.
SILENCE = 40.0
# Freed memory goes back to the kernel, so that what is held shows.
_MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


@dataclass(slots=True)
class Running:
    """A node's process, from its start to its end."""

    process: Process
    incarnation: int
    growth: Growth = field(default_factory=Growth)
    hung: bool = False


class Fleet:
    """All nodes of a run; everything random in it comes from `dice`."""

    def __init__(self, folder: Path, dice: random.Random, pace: float) -> None:
        self.notices = Notices(folder)
        self._folder, self._dice, self._pace = folder, dice, pace
        self._nodes: dict[str, Running] = {}
        self.relays: dict[tuple[str, str], Relay] = {}
        self.tally: Counter[str] = Counter()  # of those that were killed
        self.slopes: dict[str, float] = {}
        self.children: list[int] = []
        for node in NODES:
            self._start(node)

    def __getitem__(self, node: str) -> Process:
        return self._nodes[node].process

    def _start(self, node: str) -> None:
        process = Process(module="soak.node", environment=_MALLOC)
        seed = self._dice.getrandbits(32)
        incarnation = process.call("start", name=node, folder=str(self._folder), seed=seed, pace=self._pace)
        self._nodes[node] = Running(process, incarnation)
        descriptor = self.notices.descriptor(node, "")
        assert descriptor is not None
        for owner, reader in RELAYED:
            if owner == node:
                self.relays[owner, reader] = relay = Relay(descriptor)
                self.notices.publish(owner, relay.descriptor, reader)

    def go(self) -> None:
        for node in NODES:
            self[node].call("go")

    def kill(self, node: str) -> None:
        """kill -9, and a new one under its name."""
        running = self._nodes[node]
        self._note(node)
        self.tally.update(running.process.call("tally"))
        self.notices.unpublish(node)
        running.process.kill()
        self.notices.say_killed(node, running.incarnation)
        for thread in range(3):
            self.notices.rest(node, thread)
        self._close_relays(node)
        self._start(node)
        self[node].call("go")

    def look(self) -> None:
        """Memory, and signs of life."""
        for node, running in self._nodes.items():
            running.growth.look(running.process.pid)
            if not running.hung and self.notices.silence(node) > SILENCE:
                running.hung = True
                self.tally["hung"] += 1
                print(f"{node}: a thread has given no sign of life for {SILENCE} s", file=sys.stderr, flush=True)
                running.process.signal(signal.SIGUSR1)
                time.sleep(1)

    def part(self) -> None:
        """All threads end and all connections are closed; the processes live on."""
        for node in NODES:
            self[node].post("part")
        for node in NODES:
            self[node].answer(deadline=120.0)

    def held(self) -> dict[str, dict[str, int]]:
        """Descriptors and threads of each, at rest."""
        for node in NODES:
            self[node].call("reap")
        return {node: held(self[node].pid) for node in NODES}

    def close(self) -> None:
        for node in NODES:
            self._note(node)
            self.tally.update(self[node].call("tally"))
            self._close_relays(node)
        for node in NODES:
            self[node].stop()
        self._end_children()

    def abandon(self) -> None:
        """After an error: nothing may be left."""
        for running in self._nodes.values():
            running.process.kill()
        self._end_children()

    def _note(self, node: str) -> None:
        slope = self._nodes[node].growth.slope()
        if slope is not None:
            self.slopes[node] = max(slope, self.slopes.get(node, slope))

    def _close_relays(self, node: str) -> None:
        for way in [way for way in self.relays if way[0] == node]:
            self.relays.pop(way).__exit__(None, None, None)

    def _end_children(self) -> None:
        for child in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
