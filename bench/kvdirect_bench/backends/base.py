# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the owner's and the reader's process of every engine must offer."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from kvdirect_bench.storage import kind_of, pattern_of, settle, take

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kvdirect_bench.block_ids import Ids
    from kvdirect_bench.storage import Bytes
    from kvdirect_bench.workload import Workload

Facts: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Settings:
    """What engines can be told.

    Attributes:
        variant: Which setting of the engine this is; each engine has its own words.
        listen: Network device that is listened on.
        copy_threads: Of kvtransfer's engines.
        cuda_copy: How kvtransfer's engines copy GPU memory; "": as they do by themselves.
        cuda_sms: Multiprocessors that a pull of theirs may keep busy; 0: as they choose.
        corrupt: Flip one byte of what arrived, to show that it is found.
        deadline: Seconds within which a pull must be done.
    """

    variant: str = ""
    listen: str = "lo"
    copy_threads: int = 2
    cuda_copy: str = ""
    cuda_sms: int = 0
    corrupt: bool = False
    deadline: float = 60.0


class Owner(abc.ABC):
    """Has the blocks, and lets the reader have them."""

    def __init__(self, workload: Workload, settings: Settings) -> None:
        """Take the memory and fill it."""
        self.workload = workload
        self.settings = settings
        self.memory = self.allocate(workload.memory_bytes(workload.owner))
        pattern_of(workload).fill(self.memory)
        settle(workload, self.memory)

    def allocate(self, size: int) -> Bytes:
        """Memory for the blocks, from where this engine wants it."""
        return take(self.workload, size)

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

    def commands(self) -> Mapping[str, Callable[..., Any]]:
        """What its process can be asked for beside what every owner's can."""
        return {}

    def idle(self) -> float | None:
        """Called between commands; seconds until it wants to be called again, None: never."""
        return None

    def close(self) -> None:
        """Stop."""
        return


class Reader(abc.ABC):
    """Pulls blocks into memory of its own."""

    def __init__(self, workload: Workload, settings: Settings) -> None:
        """Take the memory and clear it."""
        self.workload = workload
        self.settings = settings
        self.memory = self.allocate(workload.memory_bytes(workload.reader))
        pattern_of(workload).clear(self.memory)
        settle(workload, self.memory)

    def allocate(self, size: int) -> Bytes:
        """Memory for the blocks, from where this engine wants it."""
        return take(self.workload, size)

    @abc.abstractmethod
    def start(self, invitation: Mapping[str, Any]) -> Facts:
        """Connect; what the header should say about this engine."""

    @abc.abstractmethod
    def aim(self, seed: int, offer: Mapping[str, Any]) -> None:
        """Make ready for pulls of the seed's blocks; what a caller would have at hand. Not timed."""

    @abc.abstractmethod
    def pull(self) -> float:
        """Read them, and return when the bytes are there; seconds until the first byte was asked for. Timed."""

    def units(self, seed: int) -> tuple[Ids, Ids]:
        """Which units of the owner's memory a pull brings, and where to."""
        return self.workload.unit_tables(seed)

    def own_seconds(self) -> float | None:
        """How long the last pull took by another clock than the host's, where that one is what counts."""
        return None

    def runs(self) -> int | None:
        """Pieces that the last pull was carried in, where the engine says."""
        return None

    def pages(self) -> str:
        """Kind of pages that its memory is on."""
        return kind_of(self.workload, self.memory)

    def close(self) -> None:
        """Stop."""
        return


class OffsetReader(Reader):
    """A reader whose engine wants byte offsets of units at both sides."""

    def aim(self, seed: int, offer: Mapping[str, Any]) -> None:
        """Offsets in the owner's memory and in the reader's."""
        del offer
        source, target = self.workload.unit_tables(seed)
        self.source_offsets = source * self.workload.unit_bytes
        self.target_offsets = target * self.workload.unit_bytes
