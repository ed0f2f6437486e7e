# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The yardsticks of bench/native, which are C++, so that Python's cost per block is not what is measured."""

from __future__ import annotations

import importlib
from typing import Any

from .errors import BenchError


def yardsticks() -> Any:  # noqa: ANN401  (a module that may not be built; `_native.pyi` says what it has)
    """The extension, which a checkout builds and no wheel has.

    Raises:
        BenchError: It is not built, or cannot be loaded; says how to build it.
    """
    # It needs the UCX that kvtransfer chooses, so that comes first. Backends in other environments have neither.
    importlib.import_module("kvtransfer")
    try:
        return importlib.import_module("kvdirect_bench._native")
    except ImportError as error:
        raise BenchError(
            f"the benchmark's C++ yardsticks cannot be loaded ({error}); only a checkout has them: `make setup` there "
            'builds them, and so does `KVDIRECT_BENCH=1 pip install --editable ".[vllm,proxy]"`'
        ) from error
