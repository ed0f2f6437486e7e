# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What figures mean nothing without: versions, machine, settings."""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .storage import describe as describe_gpu

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .interleave import Result
    from .options import Options

_THP = Path("/sys/kernel/mm/transparent_hugepage")
_CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")


def describe(options: Options, words: Sequence[str]) -> dict[str, Any]:
    """The header of a run, before its results are there."""
    return {
        **describe_machine(words),
        "gpu": describe_gpu(options.device),
        "mode": options.mode,
        "listen": options.listen,
        "rounds": options.rounds,
        "warmup": options.warmup,
        "copy_threads": options.copy_threads,
        "cuda_sms": options.cuda_sms,
        "pages": sorted({workload.pages for workload in options.workloads}),
    }


def describe_machine(words: Sequence[str]) -> dict[str, Any]:
    """The part of a header that every benchmark has: when, by which command, with what, on which machine."""
    import kvtransfer as kt  # noqa: PLC0415  (the command line explains itself without the native core)

    return {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(words),
        "kvtransfer": kt.__version__,
        "protocol": kt.PROTOCOL_VERSION,
        "ucx": kt.ucx_version(),
        "ucx_file": kt.ucx_file(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu(),
        "cpus": len(os.sched_getaffinity(0)),
        "gpu": "none used",
        "load": round(os.getloadavg()[0], 2),
        "congestion_control": _read(_CONGESTION),
        "transparent_huge_pages": _chosen(_read(_THP / "enabled")),
        "shared_huge_pages": _chosen(_read(_THP / "shmem_enabled")),
    }


def versions(results: Sequence[Result]) -> dict[str, str]:
    """Versions of the libraries that took part."""
    return {result.contender.name: str(result.facts.get("version", "")) for result in results}


def _cpu() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", _read(Path("/proc/cpuinfo")), re.MULTILINE)
    return found[1] if found else platform.machine()


def _chosen(text: str) -> str:
    found = re.search(r"\[(\w+)\]", text)
    return found[1] if found else text


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
