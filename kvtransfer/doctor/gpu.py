# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""GPUs, as the driver shows them to this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .programs import ProgramError, ask
from .report import Check, Status

_NO_DEVICE = 100
_GIB = 1 << 30
_ROWS = ("devices", "peer_access", "nvlink")


def check_gpu(built: bool) -> Check:
    """Which NVIDIA GPUs there are, and which can read each other's memory; `built`: this build has the CUDA parts."""
    try:
        told = ask("list_gpus")
    except ProgramError as error:
        told = {"library": True, "error": str(error), "code": -1, "driver": 0} | {key: [] for key in _ROWS}
    hardware = bool(list(Path("/proc/driver/nvidia/gpus").glob("*"))) or Path("/dev/nvidia0").exists()
    facts: dict[str, object] = {
        "devices": told["devices"],
        "peer_access": told["peer_access"],
        "nvlink": told["nvlink"],
        "cuda_driver": f"{told['driver'] // 1000}.{told['driver'] % 1000 // 10}" if told["driver"] else None,
        "library": told["library"],
        "error": told["error"] or None,
    }
    status, summary, remedy = judge(told, hardware)
    facts["cuda_build"] = built
    unused = "" if built else "; this build of kvtransfer has no CUDA parts: caches are pulled in host memory only"
    return Check("gpu", status, summary + unused, remedy, facts)


def judge(told: dict[str, Any], hardware: bool) -> tuple[Status, str, str]:
    """Status, summary and remedy.

    Args:
        told: What the program list_gpus answered.
        hardware: The kernel shows an NVIDIA device.
    """
    if told["devices"]:
        return "ok", _describe(told), ""
    if not hardware and (not told["library"] or told["code"] in {0, _NO_DEVICE}):
        return "ok", "none", ""
    if not told["library"]:
        remedy = "install the driver's libcuda.so.1; in Docker `--gpus all` with the NVIDIA container toolkit"
        return "warning", f"there is a GPU, but its library cannot be loaded: {told['error']}", remedy
    remedy = "run nvidia-smi and see why; in Docker `--gpus all` with the NVIDIA container toolkit"
    return "warning", f"the driver shows no GPU: {told['error'] or 'no device'}", remedy


def _describe(told: dict[str, Any]) -> str:
    devices, access = told["devices"], told["peer_access"]
    names = ", ".join(f"{index}: {one['name']} {one['bytes'] / _GIB:.0f} GiB" for index, one in enumerate(devices))
    if len(devices) == 1:
        return names
    apart = [f"{i}-{j}" for i, row in enumerate(access) for j, can in enumerate(row) if i < j and not can]
    linked = [f"{i}-{j}" for i, row in enumerate(told["nvlink"]) for j, by in enumerate(row) if i < j and by]
    over = f"; NVLink between {', '.join(linked)}" if linked else ""
    return f"{names}{over}; peer access between " + (f"all but {', '.join(apart)}" if apart else "all")
