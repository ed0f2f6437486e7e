# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What it costs to prove pulls: the same pull with and without `verify`, in turns, on every lane between two processes.

    python bench/verify_cost.py

Prints, for each size and lane, the median seconds of a pull without and with its proof, and their ratio.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from typing import TYPE_CHECKING

import kvtransfer as kt

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

LANES = ("shm", "cma", "message")
BLOCK_BYTES = 32 << 10
TERM = 600.0


def make_engine(name: str, blocks: int) -> kt.Engine:
    """An engine with a cache of so many blocks of BLOCK_BYTES, in memory that others can map."""
    engine = kt.Engine(name=name)
    cache = kt.empty((blocks, 1, BLOCK_BYTES), "uint8")
    cache[...] = 7 if name == "owner" else 0
    engine.publish(kt.TensorMap([engine.register_tensor("kv", cache, ("block", "token", "element"))]))
    return engine


def own(pipe: Connection, blocks: int) -> None:
    """Lend all blocks until the reader has gone."""
    engine = make_engine("owner", blocks)
    lease = engine.grant([range(blocks)], watermark=blocks, term=TERM)
    pipe.send((engine.descriptor(), lease.slot, lease.epoch))
    pipe.poll(TERM)
    engine.close()


def seconds_of(peer: kt.Peer, lease: kt.LeaseRef, blocks: int, *, verify: bool) -> float:
    """Of one pull of all blocks, waited for."""
    began = time.perf_counter()
    peer.pull(lease, [range(blocks)], [range(blocks)], stop=blocks, verify=verify).wait(TERM)
    return time.perf_counter() - began


def measure(blocks: int, rounds: int) -> None:
    """Print a row for each lane."""
    context = multiprocessing.get_context("spawn")
    pipe, owners_end = context.Pipe()
    owner = context.Process(target=own, args=(owners_end, blocks), daemon=True)
    owner.start()
    descriptor, slot, epoch = pipe.recv()
    reader, lease = make_engine("reader", blocks), kt.LeaseRef(slot, epoch)
    for lane in LANES:
        peer = reader.connect(descriptor, lanes=(lane,))
        without, proven = [], []
        for _ in range(rounds):
            without.append(seconds_of(peer, lease, blocks, verify=False))
            proven.append(seconds_of(peer, lease, blocks, verify=True))
        base, cost = statistics.median(without), statistics.median(proven)
        size = blocks * BLOCK_BYTES >> 10
        print(f"{size:8d} KiB  {lane:8s} {base * 1e3:9.3f} ms  {cost * 1e3:9.3f} ms  {cost / base:5.2f}x", flush=True)
        peer.close()
    pipe.send(None)
    owner.join(60)
    reader.close()


def main() -> None:
    """Measure sizes of a small and of a long prompt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, nargs="+", default=[32, 1024, 8192], help="of 32 KiB each")
    parser.add_argument("--rounds", type=int, default=21)
    args = parser.parse_args()
    for blocks in args.blocks:
        measure(blocks, args.rounds)


if __name__ == "__main__":
    main()
