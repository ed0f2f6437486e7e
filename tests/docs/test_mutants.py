# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What `make mutants` would put into the source is still there to be put in; whether tests notice is for it to say."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_every_mutant_has_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from mutants.library import MUTANTS as LIBRARY  # noqa: PLC0415
    from mutants.native import MUTANTS as NATIVE  # noqa: PLC0415
    from mutants.python import MUTANTS as PYTHON  # noqa: PLC0415

    for mutant in (*LIBRARY, *PYTHON, *NATIVE):
        mutant.applied(ROOT)
