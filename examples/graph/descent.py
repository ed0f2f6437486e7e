# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""How embeddings begin, and a step of SGD on some of them: what stores do, without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .data import Floats, Ints


def first_rows(ids: Ints, width: int, seed: int) -> Floats:
    """Rows before the first step: small centres, zero contexts; the same whoever makes them."""
    rows = np.zeros((len(ids), 2 * width), np.float32)
    # A generator for each row would cost more than the training; one hash of (seed, id, column) does not.
    code = ids.astype(np.uint64)[:, None].repeat(width, axis=1)
    code *= np.uint64(2 * width)
    code += np.arange(width, dtype=np.uint64)
    code += np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
    code *= np.uint64(0xBF58476D1CE4E5B9)
    code ^= code >> np.uint64(31)
    code *= np.uint64(0x94D049BB133111EB)
    rows[:, :width] = ((code >> np.uint64(40)).astype(np.float32) / (1 << 24) - 0.5) / width
    return rows


def descend(rows: Floats, momentum: Floats, places: Ints, slope: Floats, rate: float, keep: float) -> None:
    """One step of SGD with momentum, in place, for these rows only; `places` are distinct."""
    pace = momentum[places]
    pace *= keep
    pace += slope
    momentum[places] = pace
    pace *= -rate
    pace += rows[places]
    rows[places] = pace
