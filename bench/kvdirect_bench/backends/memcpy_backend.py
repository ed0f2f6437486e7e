# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""memcpy between two memories of one process, by one thread or by two (the variant): what no transfer need beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import kvtransfer as kt
from kvdirect_bench.memory import address_of
from kvdirect_bench.native import yardsticks
from kvdirect_bench.storage import pattern_of, settle

from .base import Facts, OffsetReader

if TYPE_CHECKING:
    from collections.abc import Mapping


class MemcpyReader(OffsetReader):
    """Both sides in one."""

    def start(self, invitation: Mapping[str, Any]) -> Facts:
        """Take and fill the memory that is copied from."""
        del invitation
        self._copy = yardsticks().gather_memcpy
        self._threads = int(self.settings.variant)
        self._source = self.allocate(self.workload.memory_bytes(self.workload.owner))
        pattern_of(self.workload).fill(self._source)
        settle(self.workload, self._source)
        return {"lane": "memcpy", "version": kt.__version__}

    def pull(self) -> float:
        """Copy them all."""
        here, there = address_of(self.memory), address_of(self._source)
        self._copy(here, there, self.target_offsets, self.source_offsets, self.workload.unit_bytes, self._threads)
        return 0.0


READER = MemcpyReader
