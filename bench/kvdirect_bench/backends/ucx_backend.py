# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""UCX's own get, one for each unit, over the transports that UCX chooses; UCX_TLS in the environment narrows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import kvtransfer as kt
from kvdirect_bench.memory import address_of
from kvdirect_bench.native import yardsticks
from kvdirect_bench.storage import on_gpu

from .base import Facts, OffsetReader, Owner

if TYPE_CHECKING:
    from collections.abc import Mapping


class UcxOwner(Owner):
    """Registers its memory, and hands out its key."""

    def start(self) -> Facts:
        """Address, key, and where the memory is."""
        base = address_of(self.memory)
        self._source = yardsticks().UcxSource(base, self.memory.nbytes, on_gpu(self.workload))
        return {"address": self._source.address().hex(), "key": self._source.key().hex(), "base": base}

    def close(self) -> None:
        """Join the thread."""
        self._source.close()


class UcxReader(OffsetReader):
    """Posts a get for each unit, a bounded number at a time."""

    def start(self, invitation: Mapping[str, Any]) -> Facts:
        """Connect."""
        self._target = yardsticks().UcxTarget(
            address_of(self.memory),
            self.memory.nbytes,
            bytes.fromhex(invitation["address"]),
            bytes.fromhex(invitation["key"]),
            int(invitation["base"]),
            on_gpu(self.workload),
        )
        return {"lane": "ucx", "version": f"{kt.ucx_version()} over {self._target.transports()}"}

    def pull(self) -> float:
        """Get them all."""
        self._target.pull(self.target_offsets, self.source_offsets, self.workload.unit_bytes, self.settings.deadline)
        return 0.0


OWNER = UcxOwner
READER = UcxReader
