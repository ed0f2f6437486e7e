# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Pseudo-random 64-bit numbers that are the same in every process, whatever its NumPy's version."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Words: TypeAlias = npt.NDArray[np.uint64]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_MASK = (1 << 64) - 1


def mixed(seed: int, numbers: npt.NDArray[np.integer[Any]]) -> Words:
    """One well-mixed word for each number: splitmix64, whose arithmetic is modulo 2**64."""
    words = numbers.astype(np.uint64)
    words += np.uint64(seed & _MASK)
    words *= _STEP
    words ^= words >> np.uint64(30)
    words *= _FIRST
    words ^= words >> np.uint64(27)
    words *= _SECOND
    words ^= words >> np.uint64(31)
    return words


def shuffled(seed: int, count: int) -> npt.NDArray[np.int64]:
    """0 to count - 1 in an order that depends on the seed alone."""
    return np.argsort(mixed(seed, np.arange(count)), kind="stable").astype(np.int64)
