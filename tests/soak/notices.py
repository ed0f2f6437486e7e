# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the processes of a run show each other: tickets, descriptors, signs of life, and who was killed."""

from __future__ import annotations

import mmap
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import kvtransfer as kt

from .cache import AREAS, BLOCK_SIZE

if TYPE_CHECKING:
    from pathlib import Path

# Those that own and read, and the two shards of one owner.
NODES = ("a0", "a1", "b", "r1", "r2")
SHARDS = ("a0", "a1")
THREADS = 3  # of each node: one that owns, two that read
_MAGIC = 0x6B76736F616B
_NODE_WORDS = 2 + THREADS + 3 * len(AREAS)


@dataclass(frozen=True, slots=True)
class Ticket:
    """A lease that its owner has shown, and the area that it promises."""

    area: int
    lease: kt.LeaseRef

    @property
    def positions(self) -> int:
        return AREAS[self.area] * BLOCK_SIZE


class Notices:
    """A folder, and a file in it that all of a run's processes map. A word is written and read as one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        file = folder / "notices"
        if not file.exists():
            file.write_bytes(bytes(8 * _NODE_WORDS * len(NODES)))
        with file.open("r+b") as opened:
            self._map = mmap.mmap(opened.fileno(), 0)
        self._words = np.frombuffer(self._map, dtype=np.uint64).reshape(len(NODES), _NODE_WORDS)

    def beat(self, node: str, thread: int) -> None:
        self._words[NODES.index(node), 2 + thread] = time.monotonic_ns()

    def rest(self, node: str, thread: int) -> None:
        """The thread has ended, and owes no more signs of life."""
        self._words[NODES.index(node), 2 + thread] = 0

    def silence(self, node: str) -> float:
        """Seconds since the last sign of life of the node's quietest thread."""
        beats = [int(beat) for beat in self._words[NODES.index(node), 2 : 2 + THREADS] if beat]
        return (time.monotonic_ns() - min(beats)) / 1e9 if beats else 0.0

    def show(self, node: str, ticket: Ticket) -> None:
        place = self._ticket(node, ticket.area)
        epoch, slot = ticket.lease.epoch, ticket.lease.slot
        place[:] = (epoch, slot, epoch ^ slot ^ _MAGIC)

    def withdraw(self, node: str, area: int) -> None:
        self._ticket(node, area)[0] = 0

    def ticket(self, node: str, area: int) -> Ticket | None:
        """None where there is none, or one that is just being written."""
        epoch, slot, check = (int(word) for word in self._ticket(node, area))
        if epoch == 0 or epoch ^ slot ^ _MAGIC != check:
            return None
        return Ticket(area, kt.LeaseRef(slot, epoch))

    def publish(self, node: str, descriptor: bytes, reader: str = "") -> None:
        """The way to a node, or that of one reader only."""
        file = self._descriptor(node, reader)
        draft = file.with_suffix(".draft")
        draft.write_bytes(descriptor)
        draft.replace(file)

    def descriptor(self, node: str, reader: str) -> bytes | None:
        for file in (self._descriptor(node, reader), self._descriptor(node, "")):
            if file.exists():
                return file.read_bytes()
        return None

    def unpublish(self, node: str) -> None:
        for file in self._folder.glob(f"{node}@*.descriptor"):
            file.unlink()
        self._words[NODES.index(node), 2 + THREADS :] = 0

    def say_killed(self, node: str, incarnation: int) -> None:
        self._words[NODES.index(node), :2] = (incarnation, time.monotonic_ns())

    def killed_for(self, node: str, incarnation: int) -> float:
        """Seconds since this incarnation of a node was killed; 0 if it was not."""
        known, when = (int(word) for word in self._words[NODES.index(node), :2])
        return (time.monotonic_ns() - when) / 1e9 if known == incarnation else 0.0

    def _descriptor(self, node: str, reader: str) -> Path:
        return self._folder / f"{node}@{reader}.descriptor"

    def _ticket(self, node: str, area: int) -> np.typing.NDArray[np.uint64]:
        first = 2 + THREADS + 3 * area
        return self._words[NODES.index(node), first : first + 3]
