# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What a pull moves, and how it lies in the memory of each side.

Every engine is given the same units: pieces that are contiguous on both sides. A unit is a whole block where the two
layouts agree; the heads of one token, or one head of one token, where they do not.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np

from .block_ids import Ids, scattered
from .errors import BenchUsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

Layout = Literal["NHD", "HND"]
Pages = Literal["4k", "2m", "default"]
Device = Literal["cpu", "cuda"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
PAGES: tuple[Pages, ...] = get_args(Pages)
DEVICES: tuple[Device, ...] = get_args(Device)
_WORD = 8
# Twice as many blocks as a pull names, so that they can be scattered and what was not asked for can be looked at.
_POOL = 2


@dataclass(frozen=True, slots=True)
class Side:
    """One side's cache: a block holds `tokens` x `heads` rows, in an order that the layout says.

    Attributes:
        heads: Heads of a block on this side.
        first: The first of them that is moved.
        layout: NHD: a token's heads lie together; HND: a head's tokens do.
    """

    heads: int
    first: int
    layout: Layout


@dataclass(frozen=True, slots=True)
class Workload:
    """One pull's size and shape; the same for every engine.

    Attributes:
        kind: "raw": one array of blocks; "kv": keys and values of every layer.
        parts: Arrays: 1, or 2 for keys and values.
        layers: Of each part.
        blocks: That a pull names.
        tokens: Of a block.
        heads: Of the model.
        row_bytes: Of one head of one token; the whole block of a raw workload.
        fragmentation: 0: the blocks are one run; 1: each is somewhere else.
        pages: Kind of pages asked for.
        owner_tp: Shards of the owner's side; a multiple of it are the reader's.
        reader_tp: Shards of the reader's side.
        owner_layout: Order of rows in the owner's blocks.
        reader_layout: Order of rows in the reader's blocks.
        device: Whose memory both sides have; pages are the host's affair only.
    """

    kind: str
    parts: int
    layers: int
    blocks: int
    tokens: int
    heads: int
    row_bytes: int
    fragmentation: float
    pages: Pages
    owner_tp: int = 1
    reader_tp: int = 1
    owner_layout: Layout = "NHD"
    reader_layout: Layout = "NHD"
    device: Device = "cpu"

    def __post_init__(self) -> None:
        """Check that it can be carried and verified."""
        for name in ("parts", "layers", "blocks", "tokens", "heads", "row_bytes", "owner_tp", "reader_tp"):
            if getattr(self, name) < 1:
                raise BenchUsageError(f"{name}={getattr(self, name)}: expected at least 1")
        if self.row_bytes % _WORD:
            what = "--block-bytes" if self.kind == "raw" else "head size times --dtype-bytes"
            raise BenchUsageError(f"{what} is {self.row_bytes}: expected a multiple of {_WORD}")
        if not 0 <= self.fragmentation <= 1:
            raise BenchUsageError(f"--fragmentation {self.fragmentation}: expected 0 (one run) to 1 (all scattered)")
        if self.pages not in PAGES:
            raise BenchUsageError(f"--pages {self.pages}: expected one of {', '.join(PAGES)}")
        if self.device not in DEVICES:
            raise BenchUsageError(f"--device {self.device}: expected {' or '.join(DEVICES)}")
        if self.heads % self.reader_tp or self.reader_tp % self.owner_tp:
            raise BenchUsageError(
                f"--tp {self.owner_tp}:{self.reader_tp} with {self.heads} KV heads: the reader's shards must divide "
                "the heads and be a multiple of the owner's (a reader of several owners is not supported yet)"
            )
        for layout in (self.owner_layout, self.reader_layout):
            if layout not in LAYOUTS:
                raise BenchUsageError(f"--layout {layout}: expected {' or '.join(LAYOUTS)}, or OWNER:READER")

    @property
    def label(self) -> str:
        """What tells it from the other workloads of a sweep."""
        if self.kind == "raw":
            shape = f"{self.blocks} blocks of {self.row_bytes} bytes"
        else:
            shape = (
                f"{self.positions} tokens in blocks of {self.tokens}, {self.layers} layers, {self.heads} heads of "
                f"{self.row_bytes} bytes, {self.owner_layout}:{self.reader_layout}, tp {self.owner_tp}:{self.reader_tp}"
            )
        place = "on the GPU" if self.device == "cuda" else f"pages {self.pages}"
        return f"{shape}, fragmentation {self.fragmentation:g}, {place}"

    @property
    def owner(self) -> Side:
        """The owner's first shard."""
        heads = self.heads // self.owner_tp
        return Side(heads, heads - self.heads // self.reader_tp, self.owner_layout)

    @property
    def reader(self) -> Side:
        """The last of the reader's shards that the owner's first shard serves."""
        return Side(self.heads // self.reader_tp, 0, self.reader_layout)

    @property
    def pool_blocks(self) -> int:
        """Blocks that each side has."""
        return _POOL * self.blocks

    @property
    def positions(self) -> int:
        """Token positions of a pull."""
        return self.blocks * self.tokens

    @property
    def pull_bytes(self) -> int:
        """What one pull moves."""
        return self.parts * self.layers * self.positions * self.reader.heads * self.row_bytes

    @property
    def units(self) -> int:
        """Pieces of a pull."""
        return self.pull_bytes // self.unit_bytes

    @property
    def unit_bytes(self) -> int:
        """Bytes of one piece that is contiguous on both sides."""
        if self._grain == "block":
            return self.tokens * self.reader.heads * self.row_bytes
        return self.row_bytes * (self.reader.heads if self._grain == "token" else 1)

    def memory_bytes(self, side: Side) -> int:
        """All of one side's cache."""
        return self.parts * self.layers * self.pool_blocks * self.tokens * side.heads * self.row_bytes

    def block_tables(self, seed: int) -> tuple[Ids, Ids]:
        """Block ids at the owner and at the reader, in the order of positions."""
        return (
            scattered(self.blocks, self.pool_blocks, self.fragmentation, 4 * seed),
            scattered(self.blocks, self.pool_blocks, self.fragmentation, 4 * seed + 2),
        )

    def unit_tables(self, seed: int) -> tuple[Ids, Ids]:
        """The same pull as unit numbers in the owner's and in the reader's memory."""
        remote, local = self.block_tables(seed)
        return self._unit_numbers(self.owner, remote), self._unit_numbers(self.reader, local)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From JSON; whatever does not fit is an error."""
        try:
            return cls(**values)
        except TypeError as error:
            raise BenchUsageError(f"the other side speaks of an unknown workload: {error}") from error

    @property
    def _grain(self) -> Literal["block", "token", "head"]:
        if self.owner_layout != self.reader_layout:
            return "head"
        same = self.owner.heads == self.reader.heads
        return "block" if same or self.owner_layout == "HND" else "token"

    def _unit_numbers(self, side: Side, blocks: Ids) -> Ids:
        """Axes: array, block, token, head; those that a unit spans have length 1."""
        grain = self._grain
        arrays = np.arange(self.parts * self.layers, dtype=np.int64)[:, None, None, None]
        tokens = np.arange(1 if grain == "block" else self.tokens, dtype=np.int64)[:, None]
        heads = side.first + np.arange(self.reader.heads if grain == "head" else 1, dtype=np.int64)
        per_token, per_head = (side.heads, 1) if side.layout == "NHD" else (1, self.tokens)
        block = arrays * self.pool_blocks + blocks[:, None, None]
        rows = block * (self.tokens * side.heads) + tokens * per_token + heads * per_head
        return rows.reshape(-1) // (self.unit_bytes // self.row_bytes)
