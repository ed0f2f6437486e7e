# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Those who gather, each in the measuring process: `gather(ids)` gives the rows in the order of the ids."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

import kvtransfer as kt
from kvtransfer.rows import RowReader

from . import dgl_store
from .served import GRPC_METHOD, GRPC_OPTIONS, grpc_address, is_here, join, rows_of, torch_is_here
from .workload import STORES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from .workload import Workload

    Rows = npt.NDArray[np.float32]

TAKE, TORCH, GRPC, RAY, DGL = "numpy take", "torch rpc", "grpc", "ray", dgl_store.KvStore.name
LANES = ("shm", "cma", "message")


class Contender(Protocol):
    """One that takes turns."""

    name: str

    def gather(self, ids: npt.NDArray[np.int64]) -> Rows:
        """The rows, good until the next gather."""
        ...


class Take:
    """`numpy.take` out of shared memory that this process has itself: nothing to ask, nobody to check.

    By default it looks for bad ids, and then makes a copy of its own first; without that it is the quickest there is.
    """

    def __init__(self, workload: Workload, name: str, mode: str) -> None:
        """`mode`: of numpy.take."""
        self.name = name
        self._mode: Any = mode
        self._features = kt.empty((workload.rows, workload.width), np.float32)
        self._features[:] = workload.features(range(workload.rows))
        self._out = kt.empty((workload.wanted, workload.width), np.float32)

    def gather(self, ids: npt.NDArray[np.int64]) -> Rows:
        """Take them."""
        np.take(self._features, ids, axis=0, out=self._out, mode=self._mode)
        return self._out


class Reader:
    """kvtransfer.rows over one lane."""

    def __init__(self, lane: str, offers: Sequence[bytes], workload: Workload) -> None:
        """Connect."""
        self.name = f"kvdirect {lane}"
        self.reader = RowReader(offers, max_rows=workload.wanted, slots=1, lanes=[lane], name=f"reader {lane}")

    def gather(self, ids: npt.NDArray[np.int64]) -> Rows:
        """Pull them into a slot; the rows stay there until the next ones are."""
        with self.reader.gather(ids).wait() as slot:
            return slot["features"]


class Halves:
    """Where the rows of each store go, and which of its rows they are."""

    def __init__(self, workload: Workload) -> None:
        self._begins = [workload.ids_of(number).start for number in range(STORES)]

    def of(self, ids: npt.NDArray[np.int64]) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """For each store: places among the ids, and its rows."""
        behind = ids >= self._begins[1]
        both = (np.flatnonzero(~behind), np.flatnonzero(behind))
        return [(places, ids[places] - begin) for places, begin in zip(both, self._begins, strict=True)]


class TorchRpc:
    """torch.distributed.rpc (TensorPipe): one call of each store, and its rows put where they belong."""

    name = TORCH

    def __init__(self, workload: Workload) -> None:
        """The group is there already."""
        self._halves = Halves(workload)
        self._out = np.empty((workload.wanted, workload.width), np.float32)

    def gather(self, ids: npt.NDArray[np.int64]) -> Rows:
        """Ask both at once."""
        import torch  # noqa: PLC0415
        from torch.distributed import rpc  # noqa: PLC0415

        asked = [
            (places, rpc.rpc_async(f"store{number}", rows_of, args=(torch.from_numpy(rows),)))
            for number, (places, rows) in enumerate(self._halves.of(ids))
        ]
        out = torch.from_numpy(self._out)
        for places, answer in asked:
            out.index_copy_(0, torch.from_numpy(places), answer.wait())
        return self._out


class Grpc:
    """gRPC over a unix socket, raw bytes both ways: one call of each store."""

    name = GRPC

    def __init__(self, workload: Workload, folder: str) -> None:
        """Connect."""
        import grpc  # noqa: PLC0415

        self._halves = Halves(workload)
        self._width = workload.width
        self._out = np.empty((workload.wanted, workload.width), np.float32)
        self._channels = [
            grpc.insecure_channel(grpc_address(folder, number), options=GRPC_OPTIONS) for number in range(STORES)
        ]
        self._take = [channel.unary_unary(GRPC_METHOD) for channel in self._channels]

    def gather(self, ids: npt.NDArray[np.int64]) -> Rows:
        """Ask both at once."""
        asked = [
            (places, take.future(rows.tobytes(), timeout=60))
            for take, (places, rows) in zip(self._take, self._halves.of(ids), strict=True)
        ]
        for places, answer in asked:
            self._out[places] = np.frombuffer(answer.result(), np.float32).reshape(-1, self._width)
        return self._out


class Ray:
    """Ray: an actor for each store, its answers through Ray's object store, from where they are put in their places."""

    name = RAY

    def __init__(self, workload: Workload) -> None:
        """Start Ray on loopback, and actors with rows of their own."""
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray  # noqa: PLC0415

        quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
        ray.init(num_cpus=STORES, object_store_memory=1 << 30, _node_ip_address="127.0.0.1", **quiet)
        self._halves = Halves(workload)
        self._out = np.empty((workload.wanted, workload.width), np.float32)
        kept = ray.remote(_Kept)
        self._actors = [kept.remote(workload, number) for number in range(STORES)]

    def gather(self, ids: npt.NDArray[np.int64]) -> Rows:
        """Ask both at once."""
        import ray  # noqa: PLC0415

        both = self._halves.of(ids)
        asked = [actor.take.remote(rows) for actor, (_, rows) in zip(self._actors, both, strict=True)]
        for (places, _), answer in zip(both, asked, strict=True):
            self._out[places] = ray.get(answer, timeout=60)
        return self._out

    def close(self) -> None:
        """End its processes."""
        import ray  # noqa: PLC0415

        ray.shutdown()


class _Kept:
    """What a Ray actor keeps."""

    def __init__(self, workload: Workload, store: int) -> None:
        self._features = workload.features(workload.ids_of(store))

    def take(self, rows: npt.NDArray[np.int64]) -> Rows:
        return self._features.take(rows, axis=0)


@contextlib.contextmanager
def contenders(workload: Workload, offers: Sequence[bytes], folder: str) -> Iterator[list[Contender]]:
    """All that can be had here; stores are met in the folder."""
    made: list[Contender] = [Take(workload, TAKE, "clip"), Take(workload, f"{TAKE}, checked", "raise")]
    with contextlib.ExitStack() as opened:
        if is_here("ray"):
            ray = Ray(workload)  # before the others have threads: it forks
            opened.callback(ray.close)
            made.append(ray)
        for lane in LANES:
            reader = Reader(lane, offers, workload)
            opened.enter_context(reader.reader)
            made.append(reader)
        if torch_is_here():
            join(f"{folder}/rpc", "reader", 0)
            made.append(TorchRpc(workload))
        if is_here("grpc"):
            made.append(Grpc(workload, folder))
        if is_here("dgl"):
            made.append(dgl_store.KvStore(workload, *opened.enter_context(dgl_store.served(workload, folder))))
        yield made


def left_out() -> list[str]:
    """Who is not installed here."""
    missing = {TORCH: torch_is_here(), GRPC: is_here("grpc"), RAY: is_here("ray"), DGL: is_here("dgl")}
    return [name for name, here in missing.items() if not here]
