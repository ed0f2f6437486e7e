# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Shared memory and large pages: how much there is, found out by taking some."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .procfs import chosen, number, read
from .report import Check

if TYPE_CHECKING:
    from collections.abc import Callable

_MIB = 1 << 20
_SHM = "/dev/shm"  # noqa: S108  (the one place that POSIX shared memory has)
# vLLM's processes pass requests and tensors through it; containers often get 64 MiB.
_ENOUGH = 1 << 30
_TRIED = 64 * _MIB
_LARGE_PAGE = 2 * _MIB
_MFD_HUGE_2MB = 21 << 26
_MORE = (
    "in Docker `--shm-size=16g` or `--ipc=host`, in Kubernetes an emptyDir with medium Memory at /dev/shm, "
    "else `mount -o remount,size=16G /dev/shm`"
)


def check_shared_memory() -> Check:
    """How large /dev/shm is, and whether memory can really be had there and from memfd_create."""
    facts: dict[str, object] = {"size_bytes": None, "free_bytes": None, "writable": False, "memfd": False}
    memfd = _errno_of(_take_memfd)
    facts["memfd"] = memfd == 0
    try:
        room = os.statvfs(_SHM)
    except OSError as error:
        remedy = f"mount a tmpfs there: {_MORE}"
        return Check("shared_memory", "warning", f"{_SHM} cannot be used: {error.strerror}", remedy, facts)
    size, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
    # A tmpfs without a limit says 0.
    unlimited = size == 0
    facts |= {"size_bytes": size, "free_bytes": free}
    failed = _errno_of(lambda: _take_shm(_TRIED if unlimited else min(_TRIED, free)))
    facts["writable"] = failed == 0
    found = f"{_SHM} has {size // _MIB} MiB, {free // _MIB} MiB free"
    if failed:
        remedy = _remedy(failed, f"make {_SHM} larger: {_MORE}")
        return Check("shared_memory", "warning", f"{found}, but none can be had: {os.strerror(failed)}", remedy, facts)
    if memfd:
        remedy = _remedy(memfd, "raise the memory limit of the container")
        summary = f"{found}; memfd_create gives no {_TRIED // _MIB} MiB: {os.strerror(memfd)}"
        return Check("shared_memory", "warning", summary, remedy, facts)
    if not unlimited and free < _ENOUGH:
        return Check("shared_memory", "warning", f"{found}, which is little for vLLM's processes", _MORE, facts)
    return Check("shared_memory", "ok", f"{_SHM} has no limit" if unlimited else found, facts=facts)


def _remedy(code: int, larger: str) -> str:
    if code == errno.EFBIG:
        return "raise the limit on file sizes: ulimit -f unlimited"
    if code in {errno.EROFS, errno.EACCES, errno.EPERM}:
        return f"mount {_SHM} writable for user {os.geteuid()}; in a container take its default mount"
    return larger


def _errno_of(take: Callable[[], object]) -> int:
    """The errno of really taking memory, which is given back at once; 0 if it was there."""
    try:
        take()
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _take_shm(size: int) -> None:
    with tempfile.TemporaryFile(dir=_SHM) as file:
        os.posix_fallocate(file.fileno(), 0, max(size, 1))


def _take_memfd() -> None:
    with os.fdopen(os.memfd_create("kvdirect-doctor"), "wb") as file:
        os.posix_fallocate(file.fileno(), 0, _TRIED)


def check_large_pages() -> Check:
    """Pages of 2 MiB: reserved ones, and those that the kernel makes by itself."""
    reserved = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
    automatic = Path("/sys/kernel/mm/transparent_hugepage")
    failed = _errno_of(_take_large_page)
    facts: dict[str, object] = {
        "reserved": number(read(reserved / "nr_hugepages")),
        "free": number(read(reserved / "free_hugepages")),
        "memfd_hugetlb": failed == 0,
        "transparent": chosen(read(automatic / "enabled")) or None,
        "transparent_shared": chosen(read(automatic / "shmem_enabled")) or None,
    }
    summary = (
        f"{facts['reserved'] or 0} reserved, {facts['free'] or 0} free, memfd with them "
        f"{'works' if not failed else 'does not (' + os.strerror(failed) + ')'}; transparent: {facts['transparent']}, "
        f"for shared memory: {facts['transparent_shared']}"
    )
    if failed and facts["transparent"] in {None, "never"}:
        remedy = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, or sysctl -w vm.nr_hugepages=1024 (2 GiB)"
        return Check("large_pages", "warning", f"none: {summary}; large copies are slower", remedy, facts)
    return Check("large_pages", "ok", summary, facts=facts)


def _take_large_page() -> None:
    """One reserved page of 2 MiB is mapped, and not touched."""
    flags = os.MFD_CLOEXEC | os.MFD_HUGETLB | _MFD_HUGE_2MB
    with os.fdopen(os.memfd_create("kvdirect-doctor", flags), "wb") as file:
        os.ftruncate(file.fileno(), _LARGE_PAGE)
        mmap.mmap(file.fileno(), _LARGE_PAGE).close()
