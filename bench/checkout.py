# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Lets the scripts beside it run from a checkout whose kvdirect is not installed."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_FOLDERS = {"kvdirect_bench": "bench", "kvdirect": "vllm_plugin", "kvtransfer": "."}


def run(module: str) -> int:
    """The exit status of that module's main."""
    for name, folder in _FOLDERS.items():
        if importlib.util.find_spec(name) is None:
            path = str(_ROOT / folder)
            sys.path.append(path)
            # vLLM's engines are processes of their own and look for the connector by themselves.
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), path)))
    try:
        main = importlib.import_module(module).main
    except ModuleNotFoundError as error:
        sys.exit(
            f"{Path(sys.argv[0]).name}: error: {sys.executable} has no {error.name}; "
            "`pip install .` in this checkout installs what is needed, `make setup` makes an environment that has it"
        )
    return int(main())
