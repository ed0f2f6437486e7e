# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The same bytes as `pattern`, written and checked where they lie: on the GPU, with nothing copied to the host."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from .pattern import CLEARED, MARKS, WORD
from .prng import mixed

if TYPE_CHECKING:
    import numpy.typing as npt

    from .block_ids import Ids
    from .gpu import Tensor

# Large enough for a GPU to be busy with, small beside its memory.
_CHUNK = 128 << 20


class DevicePattern:
    """As `Pattern`, for memory that is a PyTorch tensor of bytes. Returns when the device is done."""

    def __init__(self, unit_bytes: int, device: str = "cuda", salt: int = 0) -> None:
        """Make the words that all units share, on that device; `salt` makes them others."""
        self._torch = importlib.import_module("torch")
        self._device = device
        self._words = self._there(mixed(salt, np.arange(unit_bytes // WORD)))
        self._salt = salt + MARKS
        self._rows = max(1, _CHUNK // unit_bytes)
        # PyTorch has signed words only; the bits are the same.
        self._cleared = int(CLEARED.view(np.int64))

    def fill(self, memory: Tensor) -> None:
        """Write every unit of the owner's memory."""
        units = self._units(memory)
        for at in range(0, len(units), self._rows):
            some = units[at : at + self._rows]
            self._torch.bitwise_xor(self._words[None, :], self._marks(np.arange(at, at + len(some))), out=some)
        self._settle()

    def clear(self, memory: Tensor) -> None:
        """Make the reader's memory hold nothing that a pull could bring."""
        memory.view(self._torch.int64).fill_(self._cleared)
        self._settle()

    def wrong_bytes(self, memory: Tensor, source: Ids, target: Ids) -> int:
        """Bytes that differ from what a pull of unit source[i] into unit target[i] of cleared memory leaves."""
        units = self._units(memory)
        wrong = 0
        for at in range(0, len(target), self._rows):
            expected = self._words ^ self._marks(source[at : at + self._rows])
            wrong += self._different(units, target[at : at + self._rows], expected)
        untouched = np.ones(len(units), dtype=np.bool_)
        untouched[target] = False
        others = np.flatnonzero(untouched)
        for at in range(0, len(others), self._rows):
            wrong += self._different(units, others[at : at + self._rows], self._cleared)
        return wrong

    def _different(self, units: Tensor, which: Ids, expected: Tensor | int) -> int:
        found = units.index_select(0, self._there(which)) ^ expected
        return int(self._torch.count_nonzero(found.view(self._torch.uint8)))

    def _units(self, memory: Tensor) -> Tensor:
        return memory.view(self._torch.int64).reshape(-1, len(self._words))

    def _marks(self, units: Ids) -> Tensor:
        return self._there(mixed(self._salt, units))[:, None]

    def _there(self, numbers: npt.NDArray[Any]) -> Tensor:
        return self._torch.from_numpy(numbers.view(np.int64)).to(self._device)

    def _settle(self) -> None:
        if self._device == "cuda":
            self._torch.cuda.synchronize()
