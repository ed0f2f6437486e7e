# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The live trace with roles that change, runnable without being installed: `python bench/elastic_bench.py`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # where `python -I` does not look

from checkout import run

if __name__ == "__main__":
    sys.exit(run("kvdirect_bench.elastic.cli"))
