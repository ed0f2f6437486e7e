# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the owner's and the reader's process of every engine must offer."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from kvdirect_bench.memory import allocate, collapse, page_kind
from kvdirect_bench.pattern import Pattern

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvdirect_bench.scene import Scene

Bytes: TypeAlias = npt.NDArray[np.uint8]
Facts: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Settings:
    """What engines can be told.

    Attributes:
        variant: Which setting of the engine this is; each engine has its own words.
        listen: Network device that is listened on.
        copy_threads: Of kvtransfer's engines.
        corrupt: Flip one byte of what arrived, to show that it is found.
        deadline: Seconds within which a pull must be done.
    """

    variant: str = ""
    listen: str = "lo"
    copy_threads: int = 2
    corrupt: bool = False
    deadline: float = 60.0


class Owner(abc.ABC):
    """Has the blocks, and lets the reader have them."""

    def __init__(self, scene: Scene, settings: Settings) -> None:
        """Take the memory and fill it."""
        self.scene = scene
        self.settings = settings
        self.memory = self.allocate(scene.memory_bytes(scene.owner))
        Pattern(scene.unit_bytes).fill(self.memory)
        collapse(self.memory, scene.pages)

    def allocate(self, size: int) -> Bytes:
        """Memory for the blocks, from where this engine wants it."""
        return allocate(size, self.scene.pages)

    @abc.abstractmethod
    def start(self) -> Facts:
        """What the reader needs to connect."""

    def offer(self, seed: int) -> Facts:
        """What the reader needs for one turn: a lease, where there are such things."""
        del seed
        return {}

    def withdraw(self) -> None:
        """The turn is over."""
        return

    def idle(self) -> float | None:
        """Called between commands; seconds until it wants to be called again, None: never."""
        return None

    def close(self) -> None:
        """Stop."""
        return


class Reader(abc.ABC):
    """Pulls blocks into memory of its own."""

    def __init__(self, scene: Scene, settings: Settings) -> None:
        """Take the memory and clear it."""
        self.scene = scene
        self.settings = settings
        self.memory = self.allocate(scene.memory_bytes(scene.reader))
        Pattern.clear(self.memory)
        collapse(self.memory, scene.pages)

    def allocate(self, size: int) -> Bytes:
        """Memory for the blocks, from where this engine wants it."""
        return allocate(size, self.scene.pages)

    @abc.abstractmethod
    def start(self, invitation: Mapping[str, Any]) -> Facts:
        """Connect; what the header should say about this engine."""

    @abc.abstractmethod
    def aim(self, seed: int, offer: Mapping[str, Any]) -> None:
        """Make ready for pulls of the seed's blocks; what a caller would have at hand. Not timed."""

    @abc.abstractmethod
    def pull(self) -> float:
        """Read them, and return when the bytes are there; seconds until the first byte was asked for. Timed."""

    def runs(self) -> int | None:
        """Pieces that the last pull was carried in, where the engine says."""
        return None

    def pages(self) -> str:
        """Kind of pages that its memory is on."""
        return page_kind(self.memory)

    def close(self) -> None:
        """Stop."""
        return


class OffsetReader(Reader):
    """A reader whose engine wants byte offsets of units at both sides."""

    def aim(self, seed: int, offer: Mapping[str, Any]) -> None:
        """Offsets in the owner's memory and in the reader's."""
        del offer
        source, target = self.scene.unit_tables(seed)
        self.source_offsets = source * self.scene.unit_bytes
        self.target_offsets = target * self.scene.unit_bytes
