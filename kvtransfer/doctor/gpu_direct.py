# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Whether network cards here can read and write GPU memory themselves, and which card is near which GPU."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from .procfs import read
from .rdma import module_of
from .report import Check, Status

_NVIDIA = "0x10de"
_DISPLAY = "0x03"  # class of PCI devices: display controllers, which GPUs without a display are too
_DMABUF_LINUX = (5, 12)
_PEERMEM = ("nvidia_peermem", "nv_peer_mem")
# Best first.
_NEARNESS = ("one PCI switch", "one PCI root", "one NUMA node", "apart")
_UCX = (
    "use a UCX that has CUDA and RDMA (docs/operations.md says how to get one), and set "
    "RAPIDS_LIBUCX_PREFER_SYSTEM_LIBRARY=true"
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A GPU and a network card, and what lies between them."""

    gpu: str
    device: str
    nearness: str


@dataclass(frozen=True, slots=True)
class Means:
    """What it takes for a card to reach GPU memory.

    Attributes:
        peermem: The kernel module nvidia_peermem, or its predecessor, is loaded.
        dmabuf: Linux and the GPU's kernel modules can hand GPU memory over as dmabuf.
        ucx: The UCX in use has a module for CUDA and one for RDMA.
    """

    peermem: bool
    dmabuf: bool
    ucx: bool


def check_gpu_direct(ucx_file: str) -> Check:
    """GPU-direct or not, and why."""
    found, nics, near = gpus(), cards(), pairs()
    means = Means(peermem_loaded(read("/proc/modules")), dmabuf_possible(), has_modules(ucx_file))
    facts: dict[str, object] = {
        "gpus": [one.name for one in found],
        "devices": sorted(nics),
        **asdict(means),
        "near": [asdict(pair) for pair in near],
    }
    return Check("gpu_direct", *judge(found, nics, near, means), facts)


def judge(found: list[Path], nics: dict[str, Path], near: list[Pair], means: Means) -> tuple[Status, str, str]:
    """Status, summary and remedy."""
    if not found or not nics:
        return "ok", f"no: it takes a GPU and an RDMA device; here are {len(found)} and {len(nics)}", ""
    if not means.ucx:
        return "warning", "no: the UCX in use has no CUDA, or no RDMA", _UCX
    if not means.peermem and not means.dmabuf:
        remedy = (
            "`modprobe nvidia_peermem` on the host (with MLNX_OFED or DOCA-OFED), or use NVIDIA's open kernel modules "
            "on Linux 5.12 or newer"
        )
        return "warning", "no: nvidia_peermem is not loaded, and there is no dmabuf", remedy
    way = " and ".join(name for name, there in (("nvidia_peermem", means.peermem), ("dmabuf", means.dmabuf)) if there)
    nearest = "; ".join(f"{gpu} near {', '.join(devices)} ({how})" for gpu, devices, how in _nearest(near))
    return "ok", f"possible, by {way}; engines try it when they publish: {nearest}", ""


def _nearest(near: list[Pair]) -> list[tuple[str, list[str], str]]:
    rows = []
    for gpu in dict.fromkeys(pair.gpu for pair in near):
        own = [pair for pair in near if pair.gpu == gpu]
        best = min((pair.nearness for pair in own), key=_NEARNESS.index)
        rows.append((gpu, [pair.device for pair in own if pair.nearness == best], best))
    return rows


def gpus(root: Path = Path("/sys")) -> list[Path]:
    """NVIDIA GPUs as folders of PCI devices."""
    devices = sorted((root / "bus/pci/devices").glob("*"))
    return [
        one.resolve() for one in devices if read(one / "vendor") == _NVIDIA and read(one / "class").startswith(_DISPLAY)
    ]


def cards(root: Path = Path("/sys")) -> dict[str, Path]:
    """RDMA devices by name, as folders of PCI devices."""
    found = sorted((root / "class/infiniband").glob("*"))
    return {one.name: (one / "device").resolve() for one in found if (one / "device").exists()}


def pairs(root: Path = Path("/sys")) -> list[Pair]:
    """Every GPU with every RDMA device."""
    nics = cards(root)
    return [Pair(gpu.name, name, nearness(gpu, nic)) for gpu in gpus(root) for name, nic in nics.items()]


def nearness(gpu: Path, nic: Path) -> str:
    """What two PCI devices share: the path to a device names all bridges on its way, from the root on."""
    shared = os.path.commonpath([gpu, nic]).rsplit("/", 1)[-1]
    if re.fullmatch(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", shared):
        return "one PCI switch"
    if re.fullmatch(r"pci[0-9a-f]{4,}:[0-9a-f]{2}", shared):
        return "one PCI root"
    nodes = {read(gpu / "numa_node"), read(nic / "numa_node")}
    return "one NUMA node" if len(nodes) == 1 and not nodes & {"", "-1"} else "apart"


def peermem_loaded(modules: str) -> bool:
    """Whether the text of /proc/modules has one of the modules for peer memory."""
    return any(line.split(maxsplit=1)[0] in _PEERMEM for line in modules.splitlines() if line)


def dmabuf_possible(root: Path = Path("/proc")) -> bool:
    """Whether Linux is new enough and NVIDIA's kernel modules are the open ones."""
    release = re.match(r"(\d+)\.(\d+)", read(root / "sys/kernel/osrelease"))
    new_enough = release is not None and (int(release[1]), int(release[2])) >= _DMABUF_LINUX
    return new_enough and "Open Kernel Module" in read(root / "driver/nvidia/version")


def has_modules(ucx_file: str) -> bool:
    """Whether this UCX can do both."""
    return all(module_of(ucx_file, name) for name in ("cuda", "ib"))
