# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Whether this is a container, and what it was given."""

from __future__ import annotations

import os
from pathlib import Path

from .procfs import number, read
from .report import Check

# The flags that engines on one host need to see each other from containers of their own.
FLAGS = {
    "docker": ["--ipc=host", "--shm-size=16g", "--pid=host", "--cap-add=SYS_PTRACE", "--ulimit=memlock=-1"],
    "kubernetes": [
        "spec.shareProcessNamespace: true (engines in one pod)",
        "securityContext.capabilities.add: [SYS_PTRACE, IPC_LOCK]",
        "an emptyDir with medium: Memory mounted at /dev/shm",
    ],
}
_WITHOUT_LIMIT = 1 << 60  # what version 1 of cgroups shows for "none" is near 2^63
_MIB = 1 << 20


def check_container() -> Check:
    """Container or not, its limits, and the flags that pulls between containers need."""
    kind = detect(
        files={path for path in ("/.dockerenv", "/run/.containerenv") if Path(path).exists()},
        kubernetes="KUBERNETES_SERVICE_HOST" in os.environ or Path("/var/run/secrets/kubernetes.io").exists(),
        cgroup=read("/proc/1/cgroup"),
        variable=os.environ.get("container", ""),  # noqa: SIM112  (systemd's and podman's spelling)
    )
    memory, cpus = limits(read("/proc/self/cgroup"))
    flags = FLAGS["kubernetes" if kind == "kubernetes" else "docker"] if kind else []
    facts: dict[str, object] = {"kind": kind or None, "memory_limit_bytes": memory, "cpu_limit": cpus, "flags": flags}
    bounded = f"memory {f'{memory // _MIB} MiB' if memory else 'without limit'}, CPUs {cpus or 'without limit'}"
    if not kind:
        return Check("container", "ok", f"none; {bounded}", facts=facts)
    return Check("container", "ok", f"{kind}; {bounded}; between containers give {', '.join(flags)}", facts=facts)


def detect(*, files: set[str], kubernetes: bool, cgroup: str, variable: str) -> str:
    """The kind of container by its traces; "" for none.

    Args:
        files: Which of the marker files exist.
        kubernetes: A pod's environment or secrets are there.
        cgroup: /proc/1/cgroup.
        variable: The environment variable `container`.
    """
    if kubernetes or "kubepods" in cgroup:
        return "kubernetes"
    if "/run/.containerenv" in files or variable == "podman":
        return "podman"
    if "/.dockerenv" in files or "docker" in cgroup:
        return "docker"
    return variable or ("containerd" if "containerd" in cgroup else "")


def limits(membership: str, root: Path = Path("/sys/fs/cgroup")) -> tuple[int | None, float | None]:
    """The tightest memory limit in bytes and CPU limit in cores that our control groups set; None for none.

    Args:
        membership: /proc/self/cgroup.
        root: Where control groups are mounted.
    """
    memory: list[int] = []
    cpus: list[float] = []
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        for group in _upwards(path):
            for base in (root, *(root / name for name in (*controllers.split(","), "unified") if name)):
                folder = base / group
                memory += _values(folder, "memory.max", "memory.limit_in_bytes")
                cpus += _cpu_limit(read(folder / "cpu.max"))
                quota, period = read(folder / "cpu.cfs_quota_us"), read(folder / "cpu.cfs_period_us")
                cpus += _cpu_limit(f"{quota} {period}")
    return min(memory, default=None), min(cpus, default=None)


def _upwards(path: str) -> list[str]:
    """A group and those that hold it, as relative paths; inside a container only the last may be there."""
    parts = [part for part in path.split("/") if part and part != ".."]
    return ["/".join(parts[:count]) for count in range(len(parts), -1, -1)]


def _values(folder: Path, *names: str) -> list[int]:
    found = (number(read(folder / name)) for name in names)
    return [value for value in found if value is not None and 0 < value < _WITHOUT_LIMIT]


def _cpu_limit(pair: str) -> list[float]:
    quota, _, period = pair.partition(" ")
    top, bottom = number(quota), number(period)
    return [round(top / bottom, 2)] if top and bottom and top > 0 else []
