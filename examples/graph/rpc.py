# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The same rows over torch.distributed.rpc, to compare with: a step asks, and waits until they are there."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.distributed import rpc

from .fetch import Fetch, Here
from .store import FeatureSettings, shard_ids

if TYPE_CHECKING:
    from pathlib import Path

    from .data import Ints

_rows = torch.empty(0, 0)
_first = 0


def rows_of(ids: torch.Tensor) -> torch.Tensor:
    """In a store: rows of these ids."""
    return _rows[ids - _first]


def serve_rpc(settings: FeatureSettings) -> None:
    """Serve features to `RpcRows` until it shuts down."""
    global _rows, _first  # noqa: PLW0603  (what remote calls find)
    torch.set_num_threads(1)
    if settings.rows_file is None:
        raise ValueError("features of R-MAT graphs are drawn; the RPC store takes them from a file only")
    mapped = np.load(settings.rows_file, mmap_mode="r")
    _rows = torch.from_numpy(np.array(mapped[settings.ids.start : settings.ids.stop]))
    _first = settings.ids.start
    _join(settings.folder, f"rpc-{settings.shard}", settings.shard + 1, settings.shards)
    rpc.shutdown()


class RpcRows:
    """Rows of the processes above. Not thread-safe."""

    def __init__(self, folder: Path, shards: int, width: int) -> None:
        """Meet them."""
        self._shards, self._width = shards, width
        _join(folder, "rpc-trainer", 0, shards)
        self._nodes = 0

    def begin(self, ids: Ints) -> Fetch:
        """Ask all stores at once, and wait for them."""
        begin = time.perf_counter()
        if not self._nodes:
            self._nodes = sum(rpc.rpc_sync(f"rpc-{shard}", count_rows) for shard in range(self._shards))
            starts = [shard_ids(self._nodes, shard, self._shards).start for shard in range(self._shards)]
            self._ends = np.array([*starts[1:], self._nodes])
        shards = np.searchsorted(self._ends, ids, side="right")
        rows = np.empty((len(ids), self._width), np.float32)
        asked = []
        for shard in range(self._shards):
            places = np.flatnonzero(shards == shard)
            if len(places):
                wanted = torch.from_numpy(ids[places])
                asked.append((places, rpc.rpc_async(f"rpc-{shard}", rows_of, (wanted,), timeout=60)))
        for places, answer in asked:
            rows[places] = answer.wait().numpy()
        return Here(rows, time.perf_counter() - begin)

    def close(self) -> None:
        """Let all end."""
        rpc.shutdown()


def count_rows() -> int:
    """In a store: how many there are."""
    return len(_rows)


def _join(folder: Path, name: str, rank: int, shards: int) -> None:
    """Meet the others at a file; sockets of this host only."""
    os.environ.update({"TP_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo"})
    options = rpc.TensorPipeRpcBackendOptions(init_method=f"file://{folder}/rpc", rpc_timeout=60, num_worker_threads=4)
    rpc.init_rpc(name, rank=rank, world_size=shards + 1, rpc_backend_options=options)
