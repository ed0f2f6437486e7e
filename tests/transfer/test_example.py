# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The examples do what they say."""

from __future__ import annotations

import subprocess
import sys

from .harness import TESTS, child_environment


def test_pull_two_processes() -> None:
    done = subprocess.run(
        [sys.executable, str(TESTS.parent / "examples" / "pull_two_processes.py")],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    owner, reader = sorted(done.stdout.splitlines())
    assert owner.startswith("owner: [LeaseEnd(")
    assert "completed" in owner
    assert reader.startswith("reader: ")
    assert " bytes by cma in " in reader
