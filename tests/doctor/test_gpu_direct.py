# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the doctor makes of GPUs and network cards that are not here: made trees of /sys and /proc."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvtransfer.doctor import gpu_direct


def sys_tree(root: Path, **devices: str) -> Path:
    """A /sys with PCI devices at these places below sys/devices: GPUs, but RDMA devices where the name begins so."""
    for name, place in devices.items():
        folder = root / "devices" / place
        folder.mkdir(parents=True)
        (folder / "numa_node").write_text("1\n" if "pci0000:8" in place else "0\n")
        if name.startswith("mlx"):
            (root / "class/infiniband" / name).mkdir(parents=True)
            (root / "class/infiniband" / name / "device").symlink_to(folder)
            continue
        (folder / "vendor").write_text("0x10de\n")
        (folder / "class").write_text("0x030200\n" if name.startswith("gpu") else "0x068000\n")
        (root / "bus/pci/devices").mkdir(parents=True, exist_ok=True)
        (root / "bus/pci/devices" / folder.name).symlink_to(folder)
    return root


def test_which_card_is_near_which_gpu(tmp_path: Path) -> None:
    root = sys_tree(
        tmp_path,
        gpu="pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:00.0",
        bridge="pci0000:00/0000:00:03.0/0000:05:00.0",
        mlx5_0="pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:01.0",
        mlx5_1="pci0000:00/0000:00:02.0/0000:04:00.0",
        mlx5_2="pci0000:40/0000:40:01.0/0000:41:00.0",
        mlx5_3="pci0000:80/0000:80:01.0/0000:81:00.0",
    )
    found = [(pair.gpu, pair.device, pair.nearness) for pair in gpu_direct.pairs(root)]
    assert found == [
        ("0000:02:00.0", "mlx5_0", "one PCI switch"),
        ("0000:02:00.0", "mlx5_1", "one PCI root"),
        ("0000:02:00.0", "mlx5_2", "one NUMA node"),
        ("0000:02:00.0", "mlx5_3", "apart"),
    ]
    assert gpu_direct.pairs(tmp_path / "none") == []


NEAR = [gpu_direct.Pair("0000:02:00.0", name, how) for name, how in (("far", "apart"), ("near", "one PCI switch"))]
CARD, NIC = [Path("/sys/0000:02:00.0")], {"near": Path("/sys/nic")}


@pytest.mark.parametrize(
    ("found", "nics", "means", "status", "told"),
    [
        ([], NIC, (True, True, True), "ok", "here are 0 and 1"),
        (CARD, {}, (True, True, True), "ok", "here are 1 and 0"),
        (CARD, NIC, (True, True, False), "warning", "no CUDA, or no RDMA"),
        (CARD, NIC, (False, False, True), "warning", "nvidia_peermem is not loaded"),
        (CARD, NIC, (False, True, True), "ok", "by dmabuf; engines try it when they publish: 0000:02:00.0 near near ("),
        (CARD, NIC, (True, True, True), "ok", "by nvidia_peermem and dmabuf"),
    ],
)
def test_gpu_direct(
    found: list[Path], nics: dict[str, Path], means: tuple[bool, bool, bool], status: str, told: str
) -> None:
    judged, summary, remedy = gpu_direct.judge(found, nics, NEAR, gpu_direct.Means(*means))
    assert judged == status
    assert told in summary
    assert bool(remedy) == (status != "ok")


def test_what_gpu_direct_takes_is_read_from_the_kernel(tmp_path: Path) -> None:
    assert gpu_direct.peermem_loaded("ib_core 1 2 - Live\nnvidia_peermem 16384 0 - Live 0x0\n")
    assert not gpu_direct.peermem_loaded("nvidia 1 2 nvidia_peermem - Live\n\n")
    (tmp_path / "sys/kernel").mkdir(parents=True)
    (tmp_path / "driver/nvidia").mkdir(parents=True)
    for release, modules, possible in (
        ("5.12.0-generic", "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.1", True),
        ("5.4.0", "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.1", False),
        ("6.8.0", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.1", False),
    ):
        (tmp_path / "sys/kernel/osrelease").write_text(release)
        (tmp_path / "driver/nvidia/version").write_text(modules)
        assert gpu_direct.dmabuf_possible(tmp_path) == possible
    assert not gpu_direct.dmabuf_possible(tmp_path / "none")


def test_a_ucx_needs_both_modules(tmp_path: Path) -> None:
    (tmp_path / "ucx").mkdir()
    library = str(tmp_path / "libucp.so.0")
    (tmp_path / "ucx/libuct_cuda.so.0").touch()
    assert not gpu_direct.has_modules(library)
    (tmp_path / "ucx/libuct_ib.so.0").touch()
    assert gpu_direct.has_modules(library)
    assert not gpu_direct.has_modules("")
