# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The serving benchmark, runnable without being installed: `python bench/serving_bench.py`. Needs vLLM."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

# A checkout whose kvdirect is not installed finds its packages here. The engines are processes of their own and look
# for the connector by themselves, so they are told too.
_ROOT = Path(__file__).resolve().parent.parent
for name, folder in (("kvdirect_bench", "bench"), ("kvdirect", "vllm_plugin"), ("kvtransfer", ".")):
    if importlib.util.find_spec(name) is None:
        sys.path.append(str(_ROOT / folder))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(_ROOT / folder))))

from kvdirect_bench.serving.cli import main  # noqa: E402  (after the path is set)

if __name__ == "__main__":
    sys.exit(main())
