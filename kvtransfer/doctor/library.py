# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The library itself, and the Python and the machine under it."""

from __future__ import annotations

import importlib
import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from .report import Check

if TYPE_CHECKING:
    from types import ModuleType

_REINSTALL = (
    "see to the checks ucx and ucx_copies; if they are ok, install kvdirect again for this Python: "
    "pip install --force-reinstall --no-deps kvdirect"
)


@dataclass(frozen=True, slots=True)
class Library:
    """kvtransfer as this process could import it.

    Attributes:
        module: None if it could not be imported.
        error: Why not.
        hint: What the error itself says to do.
    """

    module: ModuleType | None
    error: str = ""
    hint: str = ""

    @property
    def lanes(self) -> tuple[str, ...]:
        """The lanes that this version has."""
        if self.module is None:
            return ()
        lanes: tuple[str, ...] = self.module.config.KNOWN_LANES
        return lanes

    @property
    def cuda(self) -> bool:
        """It has the CUDA parts."""
        return bool(getattr(self.module, "CUDA_BUILD", False))


def load() -> Library:
    """Import kvtransfer, which loads UCX and the native core."""
    try:
        return Library(importlib.import_module("kvtransfer"))
    except Exception as error:  # noqa: BLE001  (whatever keeps it from being imported is what we are asked for)
        return Library(None, f"{type(error).__name__}: {error}", str(getattr(error, "hint", "")))


def check_library(library: Library) -> Check:
    """Whether kvtransfer can be imported, and which protocol it speaks."""
    facts: dict[str, object] = {
        "version": getattr(library.module, "__version__", None),
        "protocol": getattr(library.module, "PROTOCOL_VERSION", None),
        "file": getattr(library.module, "__file__", None),
        "numpy": installed("numpy"),
        "lanes": list(library.lanes),
        "error": library.error or None,
    }
    if library.module is None:
        return Check("kvtransfer", "problem", f"cannot be imported: {library.error}", library.hint or _REINSTALL, facts)
    return Check("kvtransfer", "ok", f"{facts['version']}, protocol {facts['protocol']}", facts=facts)


def installed(distribution: str) -> str | None:
    """Its version; None where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def check_platform() -> Check:
    """Python, kernel and processors."""
    cpus = len(os.sched_getaffinity(0))
    facts: dict[str, object] = {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": platform.system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpus": cpus,
        "user": os.geteuid(),
    }
    summary = (
        f"{facts['implementation']} {facts['python']}, {facts['system']} {facts['kernel']} {facts['machine']}, "
        f"{cpus} CPUs for this process, user {facts['user']}"
    )
    return Check("platform", "ok", summary, facts=facts)
