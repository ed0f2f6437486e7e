# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Marks by which a reader tells that a row is the one it asked for, whole, and of one write."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from .data import Floats, Ints

WIDTH = 2  # numbers of a stamp: the id, and a sum over the row's bits


class WrongRowError(Exception):
    """A row was accepted that is not the one that was asked for, or not of one write."""


def stamps_of(ids: Ints, rows: Floats) -> Ints:
    """A stamp for each row, (rows, WIDTH)."""
    return np.stack([ids, _sums(ids, rows)], axis=1)


def check_stamps(ids: Ints, rows: Floats, stamps: Ints) -> None:
    """Raise WrongRowError unless each row is that of its id, as one write left it."""
    for what, wrong in (("another id's", stamps[:, 0] != ids), ("torn", stamps[:, 1] != _sums(ids, rows))):
        if wrong.any():
            place = int(np.flatnonzero(wrong)[0])
            raise WrongRowError(
                f"{int(wrong.sum())} of {len(ids)} rows are wrong: that of id {int(ids[place])} is {what}"
            )


def _sums(ids: Ints, rows: Floats) -> Ints:
    bits: npt.NDArray[np.uint32] = np.ascontiguousarray(rows).view(np.uint32)
    # Different odd numbers for the columns: a word that is another's, and two that changed places, change the sum.
    weights = (np.arange(bits.shape[1], dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) | np.uint64(1)
    sums = (bits * weights).sum(axis=1, dtype=np.uint64) + ids.astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9)
    signed: Ints = sums.view(np.int64)
    return signed
