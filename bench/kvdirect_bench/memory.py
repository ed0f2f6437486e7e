# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Memory on pages of a chosen size, and which pages the kernel really gave."""

from __future__ import annotations

import ctypes
import mmap
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .errors import BenchError

if TYPE_CHECKING:
    from .workload import Pages

_LARGE = 2 << 20
# Of Linux 6.1; Python has no name for it.
_MADV_COLLAPSE = 25
_HEADER = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) ")
_LARGE_FIELDS = ("AnonHugePages:", "ShmemPmdMapped:", "FilePmdMapped:", "Private_Hugetlb:", "Shared_Hugetlb:")
_THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@dataclass(frozen=True, slots=True)
class PageCount:
    """Bytes of a range that are in memory, and how many of those on large pages."""

    resident: int
    large: int

    @property
    def name(self) -> str:
        """One of "2m", "4k" (or whatever the machine's small pages are), and "mixed" with the share of large ones."""
        if self.large >= 0.98 * self.resident:
            return "2m"
        if self.large <= 0.02 * self.resident:
            return f"{mmap.PAGESIZE >> 10}k"
        return f"mixed ({100 * self.large // self.resident} % 2m)"


def allocate(size: int, pages: Pages) -> npt.NDArray[np.uint8]:
    """Private anonymous memory that begins at a multiple of 2 MiB; nothing of it is touched.

    Raises:
        BenchError: The kernel makes no pages of that size.
    """
    if pages == "2m" and "[never]" in _read(_THP):
        raise BenchError(
            f"--pages 2m: {_THP} says never, so this kernel makes no 2 MiB pages; "
            "set it to madvise as root, or take --pages default"
        )
    # mmap shares anonymous memory unless it is told not to, and shared memory gets other pages.
    whole_pages = -(-size // _LARGE) * _LARGE
    mapping = mmap.mmap(-1, whole_pages + _LARGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if pages == "2m":
        mapping.madvise(mmap.MADV_HUGEPAGE)
    elif pages == "4k":
        mapping.madvise(mmap.MADV_NOHUGEPAGE)
    whole = np.frombuffer(mapping, dtype=np.uint8)
    skipped = -address_of(whole) % _LARGE
    return whole[skipped : skipped + size]


def collapse(array: npt.NDArray[np.uint8], pages: Pages) -> None:
    """Have touched memory moved to large pages where those were asked for and the kernel found none at once.

    It tries; `page_kind` says what came of it.
    """
    if pages == "2m":
        length = -(-array.nbytes // _LARGE) * _LARGE
        ctypes.CDLL(None).madvise(ctypes.c_void_p(address_of(array)), ctypes.c_size_t(length), _MADV_COLLAPSE)


def address_of(array: npt.NDArray[np.uint8]) -> int:
    """Where its first byte is, in host memory or on a GPU."""
    interface = getattr(array, "__cuda_array_interface__", None) or array.__array_interface__
    return int(interface["data"][0])


def page_kind(array: npt.NDArray[np.uint8]) -> str:
    """What kind of pages holds memory that was touched."""
    begin = address_of(array)
    return count_pages(_read(Path("/proc/self/smaps")), begin, begin + array.nbytes).name


def count_pages(smaps: str, begin: int, end: int) -> PageCount:
    """Of the mappings that overlap [begin, end), from the text of /proc/PID/smaps."""
    resident = large = 0
    inside = False
    for line in smaps.splitlines():
        header = _HEADER.match(line)
        if header:
            inside = int(header[1], 16) < end and int(header[2], 16) > begin
        elif inside and line.startswith("Rss:"):
            resident += _kilobytes(line)
        elif inside and line.startswith(_LARGE_FIELDS):
            large += _kilobytes(line)
    return PageCount(resident, large)


def available() -> int:
    """Bytes that can be had without swapping."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _read(Path("/proc/meminfo")), re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def _kilobytes(line: str) -> int:
    return int(line.split()[1]) << 10


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
