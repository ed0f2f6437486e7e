# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Whether true RDMA is possible here, and what is missing where it is not."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from .procfs import read
from .report import Check, Status

SYSTEM_UCX = (
    "install your distribution's UCX with its RDMA module (or MLNX_OFED's), and set "
    "RAPIDS_LIBUCX_PREFER_SYSTEM_LIBRARY=true; the libucx packages of PyPI have no RDMA"
)


@dataclass(frozen=True, slots=True)
class Port:
    """One port of an RDMA device, as the kernel shows it."""

    device: str
    port: str
    state: str
    link_layer: str
    rate: str

    @property
    def active(self) -> bool:
        """The link is up."""
        return self.state.endswith("ACTIVE")


def ports(root: Path = Path("/sys/class/infiniband")) -> list[Port]:
    """All ports of all RDMA devices."""
    return [
        Port(port.parent.parent.name, port.name, read(port / "state"), read(port / "link_layer"), read(port / "rate"))
        for port in sorted(root.glob("*/ports/*"))
    ]


def verbs_devices(root: Path = Path("/dev/infiniband")) -> dict[str, bool]:
    """The device files of user-space verbs, and whether we may use them."""
    return {str(path): os.access(path, os.R_OK | os.W_OK) for path in sorted(root.glob("uverbs*"))}


def module_of(ucx_file: str, name: str = "ib") -> str:
    """A module of a UCX, that of RDMA by default: a file of its own beside the library; "" where it has none."""
    found = sorted(Path(ucx_file).resolve().parent.glob(f"ucx/libuct_{name}*.so*")) if ucx_file else []
    return str(found[0]) if found else ""


def check_rdma(ucx_file: str, lanes: tuple[str, ...]) -> Check:
    """RDMA or not, and why."""
    found, files, module = ports(), verbs_devices(), module_of(ucx_file)
    status, why, remedy = judge(found, files, module)
    facts: dict[str, object] = {
        "available": bool(found) and status == "ok",
        "ports": [asdict(port) for port in found],
        "verbs_devices": files,
        "module": module or None,
        "lane": "rdma" in lanes,
    }
    unused = "" if "rdma" in lanes else " (this version has no rdma lane: hosts reach each other over message)"
    return Check("rdma", status, why + unused, remedy, facts)


def judge(found: list[Port], files: dict[str, bool], module: str) -> tuple[Status, str, str]:
    """Status, summary and remedy for these ports, device files and this UCX module ("" for none)."""
    if not found:
        return "ok", "no: this machine shows no RDMA device in /sys/class/infiniband", ""
    names = ", ".join(f"{port.device}:{port.port} {port.link_layer} {port.state} {port.rate}" for port in found)
    if not any(port.active for port in found):
        return (
            "warning",
            f"no: no port is active: {names}",
            "bring a port up, or check its cable (`rdma link` shows them)",
        )
    if not files:
        remedy = "load ib_uverbs on the host; in a container give --device /dev/infiniband"
        return "warning", f"no: there is no /dev/infiniband/uverbs* for {names}", remedy
    if not any(files.values()):
        remedy = f"let user {os.geteuid()} read and write {', '.join(files)} (the group rdma on most systems)"
        return "warning", f"no: permission denied on {', '.join(files)}", remedy
    if not module:
        return "warning", f"no: the UCX in use was built without RDMA; the devices are {names}", SYSTEM_UCX
    return "ok", f"yes: {names}", ""
