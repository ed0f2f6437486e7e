# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the owner's memory holds, and how many bytes of the reader's are not what they must be.

Each word depends on the unit it is in and on its place there, so a unit that is stale, shifted, or somebody else's is
found; so is whatever was written where nothing was asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .prng import Words, mixed

if TYPE_CHECKING:
    from .block_ids import Ids

WORD = 8
CLEARED = np.uint64(0xA5C3A5C3A5C3A5C3)
# Between the seeds of words and those of units' marks.
MARKS = 1 << 40
# Fits the caches, so that checking is as fast as reading.
_CHUNK = 1 << 20


class Pattern:
    """The bytes of units of one size."""

    def __init__(self, unit_bytes: int, salt: int = 0) -> None:
        """Make the words that all units share; `salt` makes them others."""
        self._words = mixed(salt, np.arange(unit_bytes // WORD))
        self._salt = salt + MARKS
        self._rows = max(1, _CHUNK // unit_bytes)

    def fill(self, memory: npt.NDArray[np.uint8]) -> None:
        """Write every unit of the owner's memory."""
        units = self._units(memory)
        for at in range(0, len(units), self._rows):
            some = units[at : at + self._rows]
            np.bitwise_xor(self._words, self._marks(np.arange(at, at + len(some)))[:, None], out=some)

    @staticmethod
    def clear(memory: npt.NDArray[np.uint8]) -> None:
        """Make the reader's memory hold nothing that a pull could bring."""
        memory.view(np.uint64).fill(CLEARED)

    def wrong_bytes(self, memory: npt.NDArray[np.uint8], source: Ids, target: Ids) -> int:
        """Bytes that differ from what a pull of unit source[i] into unit target[i] of cleared memory leaves."""
        units = self._units(memory)
        wrong = 0
        for at in range(0, len(target), self._rows):
            expected = self._words ^ self._marks(source[at : at + self._rows])[:, None]
            wrong += _different(units[target[at : at + self._rows]], expected)
        untouched = np.ones(len(units), dtype=np.bool_)
        untouched[target] = False
        others = np.flatnonzero(untouched)
        for at in range(0, len(others), self._rows):
            some = units[others[at : at + self._rows]]
            wrong += _different(some, np.full_like(some, CLEARED))
        return wrong

    def _units(self, memory: npt.NDArray[np.uint8]) -> Words:
        return memory.view(np.uint64).reshape(-1, len(self._words))

    def _marks(self, units: npt.NDArray[np.int64]) -> Words:
        return mixed(self._salt, units)


def _different(found: Words, expected: Words) -> int:
    if np.array_equal(found, expected):
        return 0
    return int(np.count_nonzero(found.view(np.uint8) != expected.view(np.uint8)))
