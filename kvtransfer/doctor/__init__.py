# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Says whether KVDirect can be used on this machine, how fast it can be, and what to do about what is in the way.

    report = kvtransfer.doctor.examine()
    print(report.as_text())

`kvdirect doctor` is the command. What is mapped into memory is told of the calling process, so call it in one that has
loaded what you suspect; engines and lanes are tried in processes of their own. Takes a second or two, changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import container, engines, gpu, gpu_direct, library, limits, memory, network, process_read, rdma, ucx
from .report import SCHEMA_VERSION, Check, Report

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SCHEMA_VERSION", "Check", "Report", "examine", "guarded"]

# Without this one nothing shows that engines work here.
_DECIDES = "engines"

# Nothing in this package may import kvtransfer but through library.load: it has to speak where that cannot be imported.


def examine(listen: str = "lo") -> Report:
    """Look at everything; a check that fails by itself becomes a finding, never an exception.

    Args:
        listen: Network device that an engine is to listen on, as in EngineConfig.
    """
    found = library.load()
    lanes = found.lanes
    file = ucx.file_in_use(found)
    checks: list[Check] = []
    for name, check in (
        ("kvtransfer", lambda: library.check_library(found)),
        ("platform", library.check_platform),
        ("ucx", lambda: ucx.check_ucx(file)),
        ("ucx_copies", lambda: ucx.check_copies(file)),
        ("ucx_transports", lambda: ucx.check_transports(file)),
        ("rdma", lambda: rdma.check_rdma(file, lanes)),
        ("process_read", process_read.check_process_read),
        ("shared_memory", memory.check_shared_memory),
        ("large_pages", memory.check_large_pages),
        ("locked_memory", lambda: limits.check_locked_memory(bool(rdma.ports()))),
        ("open_files", limits.check_open_files),
        ("network_devices", network.check_devices),
        ("tcp", network.check_tcp),
        ("gpu", lambda: gpu.check_gpu(found.cuda)),
        ("gpu_direct", lambda: gpu_direct.check_gpu_direct(file)),
        ("container", container.check_container),
        ("engines", lambda: engines.check_engines(found, listen)),
    ):
        checks += guarded(name, check)
    return Report(tuple(checks))


def guarded(name: str, check: Callable[[], Check | list[Check]]) -> list[Check]:
    """What a check says; if it fails itself, that is what is said under its name."""
    try:
        outcome = check()
    except Exception as error:  # noqa: BLE001  (one check that fails must not silence the others)
        summary = f"could not be examined: {type(error).__name__}: {error}"
        remedy = "mend what else is reported; if nothing is, report this as a bug, with the whole output"
        return [Check(name, "problem" if name == _DECIDES else "warning", summary, remedy)]
    return outcome if isinstance(outcome, list) else [outcome]
