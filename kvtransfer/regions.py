# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""An engine's registered memory, and what its published map says about it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeAlias

from ._native import core
from .arrays import IntArray, IntTable, Memory, int_tables, memory_of
from .errors import ConfigError, PlanError

if TYPE_CHECKING:
    from collections.abc import Sequence


NamedRange: TypeAlias = tuple[int, int, int]
# Of one map.
MAX_TABLES = 1024


class Regions:
    """Registers buffers with a native engine and remembers which of them may be written."""

    def __init__(self, native: core.Engine, keepalive: list[object]) -> None:
        """Use `native` for registering; what must outlive it goes to `keepalive`."""
        self._native = native
        self._keepalive = keepalive
        self._lock = threading.Lock()
        self._known: dict[tuple[int, int], int] = {}
        self._readonly: set[int] = set()

    def register(self, buffer: object, readonly: bool) -> int:
        """A C-contiguous buffer as it is, the whole storage of a strided one."""
        memory = memory_of(buffer, "register")
        if memory.contiguous:
            return self._register(memory, memory.address + memory.offset, memory.own_bytes, readonly)
        return self._register(memory, memory.address, memory.length, readonly)

    def register_tensor(
        self, name: str, tensor: object, axes: Sequence[str], readonly: bool, table: int
    ) -> core.Component:
        """The whole storage of a tensor, and a component that describes the tensor in it."""
        memory = memory_of(tensor, "register_tensor")
        described = _axes_of(name, memory, axes)
        if not 0 <= table < MAX_TABLES:
            raise ConfigError(
                f"component {name!r}: table={table}, expected a number from 0 to {MAX_TABLES - 1}",
                operation="register_tensor",
            )
        region = self._register(memory, memory.address, memory.length, readonly)
        return core.Component(
            name,
            described,
            dtype=memory.dtype,
            item_bytes=memory.item_bytes,
            region=region,
            offset=memory.offset,
            table=table,
            memory=_kind(memory),
        )

    def check_writable(self, map: core.TensorMap) -> None:  # noqa: A002
        """Raise ConfigError where a pull into this map would write to what is only ever read."""
        fixed = [component.name for component in map.components if component.region in self._readonly]
        if fixed:
            raise ConfigError(
                f"a pull would write to read-only memory: components {', '.join(fixed)}",
                operation="connect",
                hint="This engine can only be read from",
            )

    def _register(self, memory: Memory, address: int, length: int, readonly: bool) -> int:
        if memory.readonly and not readonly:
            raise ConfigError(
                "the buffer is read-only, and pulls write to what is registered",
                operation="register",
                hint="Register a writable buffer, or pass readonly=True to serve it only",
            )
        with self._lock:
            region = self._known.get((address, length))
            if region is None:
                region = self._native.register_region(address, length, _kind(memory))
                self._known[address, length] = region
            self._keepalive.append(memory.owner)
            if readonly:
                self._readonly.add(region)
        return region


class BlockLimits:
    """How many blocks each block table of a map can name."""

    def __init__(self, map: core.TensorMap) -> None:  # noqa: A002
        """Take them from the block axes of the map's components."""
        self._limits: dict[int, int] = {}
        for component in map.components:
            for axis in component.axes:
                if axis.name == "block":
                    known = self._limits.get(component.table, axis.extent)
                    self._limits[component.table] = min(known, axis.extent)

    def all_blocks(self) -> list[range]:
        """Every block of every table."""
        return [range(self._limits.get(table, 0)) for table in range(max(self._limits, default=-1) + 1)]

    def check_ranges(self, ranges: Sequence[NamedRange]) -> None:
        """Raise PlanError for a range of a table, or up to a block, that the map does not have."""
        for index, first, stop in ranges:
            limit = self._limits.get(index)
            if limit is None:
                raise PlanError(f"tables[{index}]: the published map has no such block table", operation="grant")
            if stop > limit:
                raise PlanError(
                    f"tables[{index}] names blocks {first} to {stop - 1}; the map has {limit} blocks", operation="grant"
                )

    def check(self, tables: Sequence[IntTable]) -> None:
        """Raise PlanError for a table or a block id that the map does not have."""
        for index, table in enumerate(tables):
            if table.size == 0:
                continue
            limit = self._limits.get(index)
            if limit is None:
                raise PlanError(f"tables[{index}]: the published map has no such block table", operation="grant")
            highest = int(table.max())
            if highest >= limit:
                raise PlanError(f"tables[{index}] names block {highest}; the map has {limit} blocks", operation="grant")


def granted_tables(
    tables: Sequence[IntArray | range] | None, limits: BlockLimits | None
) -> tuple[list[IntTable], list[NamedRange]]:
    """Block tables of a grant as ids; what is a range as (table, first, past the last), its table is empty then.

    Raises:
        PlanError: A table or a block that the map does not have, or that is none.
    """
    if tables is None:
        if limits is None:
            raise PlanError("every block was named, and no map is published yet", operation="grant")
        tables = limits.all_blocks()
    if isinstance(tables, range):
        raise PlanError("tables is one range, expected a sequence of tables", operation="grant", hint="Use [tables]")
    ranges = [
        (index, table.start, table.stop)
        for index, table in enumerate(tables)
        if isinstance(table, range) and table.step == 1 and len(table) > 0
    ]
    named = {index for index, _, _ in ranges}
    blocks = int_tables([() if i in named else table for i, table in enumerate(tables)], "tables", "grant")
    for index, first, _ in ranges:
        if first < 0:
            raise PlanError(f"tables[{index}] begins with block {first}", operation="grant")
    if limits is not None:
        limits.check(blocks)
        limits.check_ranges(ranges)
    return blocks, ranges


def _kind(memory: Memory) -> core.MemoryKind:
    return core.MemoryKind.CUDA if memory.cuda else core.MemoryKind.HOST


def _axes_of(name: str, memory: Memory, axes: Sequence[str]) -> list[core.Axis]:
    def refuse(why: str) -> ConfigError:
        return ConfigError(f"component {name!r}: {why}", operation="register_tensor")

    if isinstance(axes, str) or len(axes) != len(memory.shape):
        raise refuse(f"axes={axes!r} for a tensor of shape {memory.shape}: expected one name per dimension")
    if len(set(axes)) != len(axes):
        raise refuse(f"axes={axes!r}: a name is there twice")
    for axis, extent, stride in zip(axes, memory.shape, memory.strides, strict=True):
        if stride < 0:
            raise refuse(f"axis {axis!r} runs backwards (stride {stride} bytes)")
        if stride == 0 and extent > 1:
            raise refuse(f"axis {axis!r} is broadcast: its {extent} indices are the same bytes")
    return [core.Axis(*described) for described in zip(axes, memory.shape, memory.strides, strict=True)]
