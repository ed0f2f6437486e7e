# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Two processes: the owner leases blocks of its cache, the reader pulls them into its own and checks the bytes."""

import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

import kvtransfer as kt

try:
    import torch
except ImportError:
    torch = None  # NumPy alone will do
BLOCKS, TOKENS, WIDTH = 16, 8, 64


def make_engine(name: str, fill: float) -> tuple[kt.Engine, list[Any]]:
    """An engine that publishes one NumPy array and, where torch is installed, one tensor."""
    engine = kt.Engine(name=name)
    caches = [np.full((BLOCKS, TOKENS, WIDTH), fill, dtype=np.float32)]
    if torch is not None:
        caches.append(torch.full((BLOCKS, TOKENS, WIDTH), fill, dtype=torch.bfloat16))
    axes = ("block", "token", "element")
    engine.publish(kt.TensorMap([engine.register_tensor(f"kv{i}", c, axes) for i, c in enumerate(caches)]))
    return engine, caches


def own(pipe: Connection) -> None:
    """The owner: promise blocks 3 and 5 for up to a minute, and keep the promise until the reader is done with them."""
    engine, _ = make_engine("owner", fill=7)
    lease = engine.grant([[3, 5]], watermark=2 * TOKENS, term=60)
    pipe.send_bytes(engine.descriptor())
    pipe.send_bytes(f"{lease.slot} {lease.epoch}".encode())
    while not (ended := engine.take_ended()):
        time.sleep(0.01)
    print("owner:", ended)


def main() -> None:
    """The reader: connect, pull into blocks 0 and 1, check, and say that the lease is needed no more."""
    context = multiprocessing.get_context("spawn")  # engines do not survive a fork
    pipe, owners_end = context.Pipe()
    owner = context.Process(target=own, args=(owners_end,), daemon=True)
    owner.start()
    owners_end.close()  # so that the end of the owner is the end of the pipe
    engine, caches = make_engine("reader", fill=0)
    assert pipe.poll(60), "the owner does not start"
    peer = engine.connect(pipe.recv_bytes())
    slot, epoch = map(int, pipe.recv_bytes().split())
    lease = kt.LeaseRef(slot, epoch)
    result = peer.pull(lease, [[3, 5]], [[0, 1]], stop=2 * TOKENS).wait()
    assert all((cache[:2] == 7).all() and (cache[2:] == 0).all() for cache in caches)
    print(f"reader: {result.bytes} bytes by {result.lane} in {result.seconds * 1e6:.0f} us")
    peer.complete(lease)
    owner.join(60)
    engine.close()


if __name__ == "__main__":
    main()
