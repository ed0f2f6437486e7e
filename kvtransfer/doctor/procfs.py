# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Reading /proc and /sys: every parser takes text, so that it can be shown any machine's."""

from __future__ import annotations

import re
import socket
from ipaddress import IPv6Address
from pathlib import Path


def read(path: str | Path) -> str:
    """A small file's text without surrounding space; empty if it is not there or not ours to read."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def number(text: str) -> int | None:
    """A decimal integer, or None for anything else ("", "max")."""
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def mapped_files(maps: str, pattern: str) -> list[str]:
    """Distinct mapped files whose base name matches, from /proc/self/maps, in order of address.

    Args:
        maps: The file's text.
        pattern: A regular expression for the beginning of the base name.
    """
    found: dict[str, None] = {}
    for line in maps.splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and re.match(pattern, Path(fields[5].removesuffix(" (deleted)")).name):
            found[fields[5]] = None
    return list(found)


def status_fields(status: str) -> dict[str, str]:
    """/proc/self/status as name and value."""
    pairs = (line.partition(":") for line in status.splitlines())
    return {name: value.strip() for name, _, value in pairs}


def inet6_devices(table: str) -> dict[IPv6Address, str]:
    """/proc/net/if_inet6: which device has which address."""
    rows = (line.split() for line in table.splitlines())
    return {IPv6Address(bytes.fromhex(row[0])): row[5] for row in rows if len(row) == 6}


def devices() -> list[str]:
    """Network devices of this network namespace."""
    return sorted(name for _, name in socket.if_nameindex())


def chosen(text: str) -> str:
    """The bracketed word of a sysfs choice: "always [madvise] never" is "madvise"."""
    match = re.search(r"\[(\w+)\]", text)
    return match[1] if match else ""
