# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The GPU's own copy of as many bytes, in one piece and in one process: what no transfer within it can beat.

The variant says which clock: "host" (from the call until the host knows that it is done, as for everything else) or
"events" (between two CUDA events around the copy: without the launch and without the host's noticing).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvdirect_bench import gpu
from kvdirect_bench.errors import BenchError
from kvdirect_bench.storage import pattern_of

from .base import Facts, Reader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvdirect_bench.block_ids import Ids

_CLOCKS = ("host", "events")


class DeviceCopyReader(Reader):
    """Both sides in one; the first units are copied, which is one run on either side."""

    def start(self, invitation: Mapping[str, Any]) -> Facts:
        """Take and fill the memory that is copied from."""
        del invitation
        if self.settings.variant not in _CLOCKS:
            raise BenchError(
                f"device_copy_backend knows the clocks {', '.join(_CLOCKS)}, not {self.settings.variant!r}"
            )
        torch = gpu.require_torch()
        size = self.workload.pull_bytes
        whole = self.allocate(size)
        pattern_of(self.workload).fill(whole)
        self._from: gpu.Tensor = whole
        self._to: gpu.Tensor = self.memory[:size]
        self._began, self._ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        return {"lane": "copy", "version": f"torch {torch.__version__}, CUDA {torch.version.cuda}"}

    def aim(self, seed: int, offer: Mapping[str, Any]) -> None:
        """The same bytes every time."""
        del seed, offer

    def units(self, seed: int) -> tuple[Ids, Ids]:
        """The first ones, in order."""
        del seed
        first = np.arange(self.workload.units, dtype=np.int64)
        return first, first

    def pull(self) -> float:
        """Copy, and wait for the end; by the host's clock no event is in the way."""
        if self.settings.variant == "events":
            self._began.record()
            self._to.copy_(self._from)
            self._ended.record()
            self._ended.synchronize()
        else:
            self._to.copy_(self._from)
            gpu.synchronize()
        return 0.0

    def own_seconds(self) -> float | None:
        """Between the events."""
        if self.settings.variant != "events":
            return None
        return float(self._began.elapsed_time(self._ended)) / 1000

    def runs(self) -> int | None:
        """In one piece."""
        return 1


READER = DeviceCopyReader
