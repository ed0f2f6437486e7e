# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Examples that are packages are imported as their users import them: from the folder `examples`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from small_graphs import _one_thread, graph, torus  # noqa: F401  (fixtures; their packages are found only now)
