# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Faults of kvtransfer's Python: rows and slots."""

from __future__ import annotations

from .mutant import Mutant

ROWS = "kvtransfer/rows"

MUTANTS = (
    Mutant(
        "a swap leaves the old generation granted",
        f"{ROWS}/store.py",
        (
            (
                "            lease = self._grant(half)\n            self._revoke()\n",
                "            lease = self._grant(half)\n",
            ),
        ),
        pytest=("tests/transfer/test_rows.py", "-k", "swap_ends or torn_by_swaps"),
    ),
    Mutant(
        "an array does not keep its slot",
        f"{ROWS}/slot.py",
        (("        self._slot = slot\n", "        del slot\n"),),
        pytest=("tests/transfer/test_rows.py", "-k", "kept_by_its_arrays"),
    ),
)
