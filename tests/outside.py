# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Programs of the system that tests start, which tools/install_programs.sh installs."""

from __future__ import annotations

import os
import shutil

import pytest


def program(name: str, package: str) -> str:
    """Where it is. Without it the test is skipped, but fails in continuous integration, where it must be.

    Args:
        name: The program.
        package: Debian's.
    """
    found = shutil.which(name)
    if found is None:
        text = f"needs the program {name}: apt-get install {package}, or tools/install_programs.sh as root"
        if os.environ.get("KVDIRECT_CI"):
            pytest.fail(text)
        pytest.skip(text)
    return found
