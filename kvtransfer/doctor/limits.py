# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Limits of this process."""

from __future__ import annotations

import resource

from .report import Check

_ENOUGH_FILES = 1024
_KIB = 1 << 10


def check_locked_memory(rdma_devices: bool) -> Check:
    """How much memory may be locked; RDMA locks all that it registers, nothing else here locks any."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    facts: dict[str, object] = {"soft_bytes": _finite(soft), "hard_bytes": _finite(hard), "matters": rdma_devices}
    found = _words(soft, "KiB", _KIB)
    if rdma_devices and _finite(soft) is not None:
        remedy = "ulimit -l unlimited; in Docker `--ulimit memlock=-1`; for a service LimitMEMLOCK=infinity"
        return Check("locked_memory", "warning", f"{found}, and RDMA locks whole caches", remedy, facts)
    return Check("locked_memory", "ok", found + ("" if rdma_devices else "; only RDMA needs it"), facts=facts)


def check_open_files() -> Check:
    """How many files may be open: each connection is some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    facts: dict[str, object] = {"soft": _finite(soft), "hard": _finite(hard)}
    found = _words(soft, "files", 1)
    if _finite(soft) is not None and soft < _ENOUGH_FILES:
        remedy = "ulimit -n 65536; in Docker `--ulimit nofile=65536`; for a service LimitNOFILE=65536"
        return Check("open_files", "warning", f"{found}, which is little for an engine with many peers", remedy, facts)
    return Check("open_files", "ok", found, facts=facts)


def _finite(limit: int) -> int | None:
    return None if limit == resource.RLIM_INFINITY else limit


def _words(limit: int, unit: str, size: int) -> str:
    return "no limit" if _finite(limit) is None else f"at most {limit // size} {unit}"
