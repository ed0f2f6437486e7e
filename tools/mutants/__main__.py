# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Puts each fault into a copy of the tree, and says whether its tests notice: `python -m mutants [PART OF A NAME]...`.

The exit status is 1 where a fault survives, 2 where one is stale: its text is not in the source once.
"""

from __future__ import annotations

import sys
import time

from .library import MUTANTS as LIBRARY
from .mutant import Mutant, StaleMutantError
from .native import MUTANTS as NATIVE
from .python import MUTANTS as PYTHON
from .scratch import ROOT, Scratch


def _look(scratch: Scratch, mutant: Mutant, green: set[object]) -> bool:
    """Whether its tests notice it; they are green without it."""
    tests = (mutant.cpp, mutant.fuzz, mutant.pytest, mutant.native)
    if tests not in green:
        scratch.build(mutant)
        if not scratch.passes(mutant):
            raise RuntimeError(f"{mutant.name}: its tests fail without it; see {scratch.tree.parent / 'last.log'}")
        green.add(tests)
    scratch.put(mutant)
    try:
        scratch.build(mutant)
        return not scratch.passes(mutant)
    finally:
        scratch.restore(mutant)


def main() -> int:
    """Look at all, or those whose file and name have a part that was given."""
    parts = sys.argv[1:]
    chosen = [
        one
        for one in (*LIBRARY, *PYTHON, *NATIVE)
        if not parts or any(part in f"{one.file}: {one.name}" for part in parts)
    ]
    for mutant in chosen:
        try:
            mutant.applied(ROOT)
        except StaleMutantError as error:
            print(f"stale: {error}", file=sys.stderr)
            return 2
    scratch = Scratch(ROOT / "build" / "mutants")
    scratch.refresh()
    green: set[object] = set()
    survivors = []
    for mutant in chosen:
        begun = time.monotonic()
        noticed = _look(scratch, mutant, green)
        print(
            f"{'noticed ' if noticed else 'SURVIVES'} {mutant.file}: {mutant.name} ({time.monotonic() - begun:.0f} s)",
            flush=True,
        )
        if not noticed:
            survivors.append(mutant)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} noticed")
    return 1 if survivors or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
