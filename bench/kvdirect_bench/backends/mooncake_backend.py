# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Mooncake's transfer engine over TCP, which is what it uses between processes without RDMA or a GPU.

A pull is cut into batches: larger ones were seen to be refused (its queue of a TCP lane is full).
"""

from __future__ import annotations

import importlib
from importlib.metadata import distributions
from typing import TYPE_CHECKING, Any

import numpy as np

from kvdirect_bench.errors import BenchError
from kvdirect_bench.memory import address_of

from .base import Facts, Owner, Reader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvdirect_bench.block_ids import Ids
    from kvdirect_bench.storage import Bytes

_BATCH = 1024
_HOST = "127.0.0.1"


def _engine(memory: Bytes) -> Any:  # noqa: ANN401  (its classes are not typed)
    try:
        module = importlib.import_module("mooncake.engine")
    except ImportError as error:
        raise BenchError(
            f"Mooncake cannot be imported: {error}; `make bench-peers` installs it, and it needs the system's "
            "libibverbs (Debian: libibverbs1)"
        ) from error
    engine = module.TransferEngine()
    if engine.initialize(_HOST, "P2PHANDSHAKE", "tcp", "") != 0:
        raise BenchError("Mooncake's transfer engine does not start over tcp")
    if engine.register_memory(address_of(memory), memory.nbytes) != 0:
        raise BenchError(f"Mooncake's transfer engine does not register {memory.nbytes} bytes")
    return engine


def _release() -> str:
    names = (one for one in distributions() if one.name.startswith("mooncake-transfer-engine"))
    return next((f"{one.version} ({one.name})" for one in names), "unknown")


class MooncakeOwner(Owner):
    """Registers its memory; the engine's own threads serve it."""

    def start(self) -> Facts:
        """Where it listens and where the memory is."""
        self._engine = _engine(self.memory)
        return {"port": self._engine.get_rpc_port(), "base": address_of(self.memory)}


class MooncakeReader(Reader):
    """Reads lists of addresses."""

    def start(self, invitation: Mapping[str, Any]) -> Facts:
        """Start an engine; it connects when it first reads."""
        self._engine = _engine(self.memory)
        self._owner = f"{_HOST}:{int(invitation['port'])}"
        self._base = int(invitation["base"])
        return {"lane": "tcp", "version": _release()}

    def aim(self, seed: int, offer: Mapping[str, Any]) -> None:
        """Lists of addresses, in batches."""
        del offer
        source, target = self.workload.unit_tables(seed)
        unit = self.workload.unit_bytes
        self._batches = [
            (here, there, [unit] * len(here))
            for here, there in zip(
                _lists(target * unit + address_of(self.memory)), _lists(source * unit + self._base), strict=True
            )
        ]

    def pull(self) -> float:
        """One batch after the other."""
        for here, there, lengths in self._batches:
            status = self._engine.batch_transfer_sync_read(self._owner, here, there, lengths)
            if status != 0:
                raise BenchError(f"Mooncake refused to read {len(here)} blocks (status {status})")
        return 0.0


def _lists(addresses: Ids) -> list[list[int]]:
    count = -(-len(addresses) // _BATCH)
    return [part.tolist() for part in np.array_split(addresses, count)]


OWNER = MooncakeOwner
READER = MooncakeReader
