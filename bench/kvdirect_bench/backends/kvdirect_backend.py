# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""kvtransfer itself, one lane at a time; the variant is the lane's name."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import kvtransfer as kt
from kvdirect_bench.errors import BenchError

from .base import Facts, Owner, Reader, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvdirect_bench.block_ids import Ids
    from kvdirect_bench.storage import Bytes
    from kvdirect_bench.workload import Side, Workload

# Longer than any turn; a lease that a dead reader left does not outlive the process.
TERM = 300.0
_SHARED = "shm"


def _engine(name: str, settings: Settings) -> kt.Engine:
    chosen: dict[str, Any] = {}
    if settings.cuda_copy:
        chosen["cuda_copy"] = settings.cuda_copy
    if settings.cuda_sms:
        chosen["cuda_sms"] = settings.cuda_sms
    config = kt.EngineConfig(
        listen=settings.listen, lanes=(settings.variant,), copy_threads=settings.copy_threads, **chosen
    )
    return kt.Engine(config, name=name)


def _publish(engine: kt.Engine, workload: Workload, side: Side, memory: Bytes, first_head: int) -> None:
    """One component for each array; a side that holds some heads only says which."""
    order = (workload.tokens, side.heads) if side.layout == "NHD" else (side.heads, workload.tokens)
    names = ("token", "head") if side.layout == "NHD" else ("head", "token")
    arrays = memory.reshape(workload.parts, workload.layers, workload.pool_blocks, *order, workload.row_bytes)
    components = []
    for part, array in zip("kv", arrays, strict=False):
        whole = engine.register_tensor(part, array, ("layer", "block", *names, "element"))
        axes = [_owned(axis, first_head) for axis in whole.axes]
        components.append(
            kt.Component(
                whole.name,
                axes,
                dtype=whole.dtype,
                item_bytes=whole.item_bytes,
                region=whole.region,
                offset=whole.offset,
                memory=whole.memory,
            )
        )
    engine.publish(kt.TensorMap(components))


def _owned(axis: kt.Axis, first_head: int) -> kt.Axis:
    if axis.name != "head" or first_head == 0:
        return axis
    return kt.Axis(axis.name, axis.extent, axis.stride, [(first_head, axis.extent, 1)])


def _memory(size: int, lane: str, private: Bytes | None) -> Bytes:
    """For lane shm memory that is born shared, where this version has it."""
    empty = getattr(kt, "empty", None)
    if lane == _SHARED and empty is not None:
        shared: Bytes = empty((size,), dtype="uint8")
        return shared
    if private is None:
        raise BenchError(f"kvtransfer {kt.__version__} has no kvtransfer.empty, which lane {lane} needs")
    return private


class KVDirectOwner(Owner):
    """Publishes its memory and leases the blocks of each turn."""

    _lease: kt.LeaseRef | None = None

    def allocate(self, size: int) -> Bytes:
        """Shared for lane shm."""
        lane = self.settings.variant
        return _memory(size, lane, None if lane == _SHARED else super().allocate(size))

    def start(self) -> Facts:
        """The descriptor."""
        self._engine = _engine("bench-owner", self.settings)
        _publish(self._engine, self.workload, self.workload.owner, self.memory, first_head=0)
        return {"descriptor": self._engine.descriptor().hex()}

    def offer(self, seed: int) -> Facts:
        """A lease of the turn's blocks."""
        remote, _ = self.workload.block_tables(seed)
        self._lease = self._engine.grant([remote], watermark=self.workload.positions, term=TERM)
        return {"slot": self._lease.slot, "epoch": self._lease.epoch}

    def withdraw(self) -> None:
        """End the lease."""
        if self._lease is not None:
            self._engine.revoke(self._lease)
            self._engine.take_ended()
            self._lease = None

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()


class KVDirectReader(Reader):
    """Pulls by `Peer.pull`, as any program would."""

    _result: kt.PullResult | None = None

    def allocate(self, size: int) -> Bytes:
        """Shared for lane shm: an engine may be owner and reader at once."""
        lane = self.settings.variant
        return _memory(size, lane, None if lane == _SHARED else super().allocate(size))

    def start(self, invitation: Mapping[str, Any]) -> Facts:
        """Connect, and insist on the lane."""
        workload = self.workload
        self._engine = _engine("bench-reader", self.settings)
        _publish(self._engine, workload, workload.reader, self.memory, workload.owner.first)
        self._descriptor = bytes.fromhex(invitation["descriptor"])
        self._peer = self._connected()
        return {
            "lane": self._peer.lane,
            "version": kt.__version__,
            "ucx": f"{kt.ucx_version()} from {kt.ucx_file()}",
            "plan": self._peer.plan_summary,
        }

    def aim(self, seed: int, offer: Mapping[str, Any]) -> None:
        """The block tables, and the lease that covers them."""
        remote, local = self.workload.block_tables(seed)
        self._tables: tuple[list[Ids], list[Ids]] = ([remote], [local])
        self._lease = kt.LeaseRef(offer["slot"], offer["epoch"])
        self._timeout = math.ceil(self.settings.deadline)
        self._positions = self.workload.positions

    def pull(self) -> float:
        """One pull, validated."""
        remote, local = self._tables
        pull = self._peer.pull(self._lease, remote, local, stop=self._positions, timeout=self._timeout)
        self._result = pull.wait()
        return self._result.post_seconds

    def reconnect(self) -> None:
        """Connect once more, and part again."""
        self._connected().close()

    def complete(self) -> None:
        """Tell the owner that the lease is needed no more."""
        self._peer.complete(self._lease)

    def runs(self) -> int | None:
        """As the result says."""
        return self._result.runs if self._result is not None else None

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def _connected(self) -> kt.Peer:
        return self._engine.connect(self._descriptor, require_lane=self.settings.variant)


OWNER = KVDirectOwner
READER = KVDirectReader
