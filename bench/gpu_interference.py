# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What pulls cost a matrix product on the same GPU, runnable without being installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

# A checkout whose kvdirect is not installed finds kvtransfer beside this folder.
for name, folder in (("kvdirect_bench", Path(__file__).parent), ("kvtransfer", Path(__file__).parent.parent)):
    if importlib.util.find_spec(name) is None:
        sys.path.append(str(folder.resolve()))

try:
    from kvdirect_bench.interference import main
except ModuleNotFoundError as error:
    sys.exit(
        f"gpu_interference.py: error: {sys.executable} has no {error.name}; "
        "`pip install .` in this checkout installs what is needed, `make setup` makes an environment that has it"
    )

if __name__ == "__main__":
    sys.exit(main())
