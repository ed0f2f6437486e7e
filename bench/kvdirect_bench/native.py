# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The yardsticks that are written in C++, so that Python's cost per block is not what is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable


def native(name: str) -> Callable[..., Any]:
    """A function or class of kvtransfer's extension; the stub `kvtransfer/_core.pyi` says what it takes.

    Raises:
        BenchError: This build does not have it.
    """
    from kvtransfer._native import core  # noqa: PLC0415  (backends in environments of their own do without kvtransfer)

    found: Callable[..., Any] | None = getattr(core, name, None)
    if found is None:
        raise BenchError(f"this build of kvtransfer lacks {name}: build it again with `pip install -e .`")
    return found
