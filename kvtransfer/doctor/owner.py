# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Program: a real engine that listens, publishes a small cache and leases one block of it.

Argument: the network device. Answers one line of JSON: the descriptor, the lease and the listening sockets, or the
error. Then serves until stdin ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np

import kvtransfer as kt
from kvtransfer.config import KNOWN_LANES

SHAPE = (4, 16, 64)  # blocks, tokens, bytes
LEASED = 1
LIFETIME = 120.0  # seconds; the doctor that started us may have been killed


def content() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """What the owner's cache holds; no two blocks alike."""
    count = int(np.prod(SHAPE))
    return (np.arange(count, dtype=np.uint32) * 2654435761 >> 24).astype(np.uint8).reshape(SHAPE)


def in_shared_memory(cache: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The same where others can map it, if the kernel gives such memory; the lane then says that it is missing."""
    try:
        shared = kt.empty(cache.shape, cache.dtype)
    except kt.TransportError:
        return cache
    shared[...] = cache
    return shared


def publish(engine: kt.Engine, cache: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    """The same map on both sides."""
    engine.publish(kt.TensorMap([engine.register_tensor("cache", cache, ("block", "token", "element"))]))


def own_listeners() -> list[tuple[str, int]]:
    """Addresses and ports of this process's listening TCP sockets."""
    found = []
    for path in [path for path in Path("/proc/self/fd").iterdir() if path.is_socket()]:
        # A copy of it, which `fromfd` would forget to close if it were no socket. AF_INET6 has room for either family's
        # address.
        with contextlib.suppress(OSError), socket.fromfd(int(path.name), socket.AF_INET6, socket.SOCK_STREAM) as one:
            listens = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if listens and one.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) in {socket.AF_INET, socket.AF_INET6}:
                found.append(one.getsockname()[:2])
    return found


def answer_stream() -> int:
    """Keep stdout for the answer alone: UCX prints its complaints there."""
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


def tell(answers: int, value: dict[str, Any]) -> None:
    """Answer."""
    os.write(answers, json.dumps(value).encode() + b"\n")


def main() -> None:
    """Serve."""
    answers = answer_stream()
    try:
        engine = kt.Engine(kt.EngineConfig(listen=sys.argv[1], lanes=KNOWN_LANES), name="doctor-owner")
        publish(engine, in_shared_memory(content()))
        lease = engine.grant([[LEASED]], watermark=SHAPE[1], term=LIFETIME)
    except kt.KVTransferError as error:
        tell(answers, {"error": str(error), "hint": error.hint})
        return
    listening = [{"address": address, "port": port} for address, port in own_listeners()]
    described = {"descriptor": engine.descriptor().hex(), "slot": lease.slot, "epoch": lease.epoch}
    tell(answers, {"listening": listening, "problems": engine.lane_problems, **described})
    select.select([sys.stdin], [], [], LIFETIME)
    engine.close()


if __name__ == "__main__":
    main()
