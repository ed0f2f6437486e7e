# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A tensor whose heads lie in two processes, pulled by a third that has all of them, in another order of axes.

The owners have (block, token, head, element) with one head and with three; the reader has (block, head, token,
element) with all four, in blocks of half the size. One plan says where each byte comes from, one pull reads them all.
"""

import multiprocessing
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

import kvtransfer as kt

BLOCKS, TOKENS, ELEMENTS = 16, 16, 32
HEADS = {"first": range(1), "second": range(1, 4)}  # of each owner
POSITIONS = 3 * TOKENS
SECONDS = 60.0


def value(position: npt.NDArray[Any], head: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """What must be at a position of the sequence, in a head."""
    return np.asarray(1000 * head + position, np.float32)


def own(pipe: Connection, name: str, table: list[int]) -> None:
    """One shard: some heads of the blocks of one sequence, leased until the reader is done with them."""
    heads = HEADS[name]
    cache = kt.empty((BLOCKS, TOKENS, len(heads), ELEMENTS), np.float32)
    cache[:] = -1
    for index, block in enumerate(table):
        positions = index * TOKENS + np.arange(TOKENS)
        cache[block] = value(positions[:, None, None], np.array(heads)[None, :, None])
    with kt.Engine(name=name) as engine:
        engine.publish(kt.TensorMap([shard(engine, cache, ("block", "token", "head", "element"), heads)]))
        lease = engine.grant([table], watermark=POSITIONS, term=SECONDS)
        pipe.send((engine.descriptor(), lease.slot, lease.epoch))
        deadline = time.monotonic() + SECONDS
        while not (ended := engine.take_ended()):
            if time.monotonic() > deadline:
                sys.exit(f"{name}: nobody completed the lease")
            time.sleep(0.01)
        print(f"{name}: {ended[0].reason}")


def shard(engine: kt.Engine, cache: npt.NDArray[Any], axes: tuple[str, ...], heads: range) -> kt.Component:
    """A component that says which heads of the whole it has."""
    part = engine.register_tensor("kv", cache, axes)
    described = [
        kt.Axis(axis.name, axis.extent, axis.stride, [(heads.start, len(heads), 1)] if axis.name == "head" else [])
        for axis in part.axes
    ]
    return kt.Component(
        part.name, described, dtype=part.dtype, item_bytes=part.item_bytes, region=part.region, offset=part.offset
    )


def main() -> None:
    """The reader, which starts the owners."""
    context = multiprocessing.get_context("spawn")  # engines do not survive a fork
    tables = {"first": [3, 9, 4], "second": [12, 0, 7]}  # each owner has its own blocks
    pipes, owners = [], []
    for name, table in tables.items():
        pipe, owners_end = context.Pipe()
        owner = context.Process(target=own, args=(owners_end, name, table), daemon=True)
        owner.start()
        owners_end.close()  # so that the end of the owner is the end of the pipe
        pipes.append(pipe)
        owners.append(owner)
    if not all(pipe.poll(SECONDS) for pipe in pipes):
        sys.exit("sharded_tensor: an owner does not start")
    told = [pipe.recv() for pipe in pipes]
    leases = [kt.LeaseRef(slot, epoch) for _, slot, epoch in told]
    half = TOKENS // 2
    cache = np.full((2 * BLOCKS, 4, half, ELEMENTS), -1, np.float32)
    local = [5, 1, 30, 8, 2, 11]
    with kt.Engine(name="reader") as engine:
        engine.publish(kt.TensorMap([engine.register_tensor("kv", cache, ("block", "head", "token", "element"))]))
        peer = engine.connect([descriptor for descriptor, _, _ in told])
        pull = peer.pull(leases, [[table] for table in tables.values()], [local], stop=POSITIONS)
        result = pull.wait(SECONDS)
        peer.complete(leases)
    for index, block in enumerate(local):
        positions = index * half + np.arange(half)
        wanted = value(positions[None, :, None], np.arange(4)[:, None, None])
        if not (cache[block] == wanted).all():
            sys.exit(f"sharded_tensor: block {block} is wrong")
    for owner in owners:
        owner.join(SECONDS)
    parts = ", ".join(f"{part.bytes} bytes of shard {part.shard} by {part.lane}" for part in result.shards)
    print(f"sharded_tensor: {result.bytes} bytes in {result.seconds * 1e6:.0f} us: {parts}; all right")


if __name__ == "__main__":
    main()
