# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Which UCX is in use, which others are about, and what it can talk over."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .library import installed
from .procfs import mapped_files, read
from .programs import ProgramError, run
from .report import Check, Status

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .library import Library

MINIMUM = (1, 19)
BROKEN = (1, 20)
UNTESTED = (1, 23)
_INSTALL = "pip install 'libucx-cu13>=1.19,!=1.20.*,<1.23' (or libucx-cu12)"
_WHEELS = ("libucx-cu13", "libucx-cu12")
_PREFER_SYSTEM = "RAPIDS_LIBUCX_PREFER_SYSTEM_LIBRARY"
_LIBRARY = r"libucp(-[0-9a-f]+)?\.so"
_ANY_LIBRARY = r"libuc[mpst](-[0-9a-f]+)?\.so"
# Where packages that bring a UCX of their own put it, relative to site-packages.
_BUNDLED = ("*.libs/libucp*.so*", ".*.libs/libucp*.so*", "*/lib/libucp.so*", "*/lib64/libucp.so*", "*/libucp*.so*")
_SYSTEM = ("usr/lib", "usr/lib64", "usr/local/lib", "lib", "opt/ucx/lib", "opt/hpcx/ucx/lib", "usr/lib/*-linux-gnu")


def file_in_use(library: Library) -> str:
    """The libucp that kvtransfer is linked to; the first one mapped if it could not be imported; "" without any."""
    if library.module is not None:
        return str(library.module.ucx_file())
    return next(iter(mapped_files(read("/proc/self/maps"), _LIBRARY)), "")


def check_ucx(file: str) -> Check:
    """The UCX in use: its version, its file, where that is from, and whether we support it."""
    packages = installed_wheels()
    release = _version(file) if file else None
    facts: dict[str, object] = {
        "version": ".".join(map(str, release)) if release else None,
        "file": file or None,
        "origin": _origin(file),
        "packages": packages,
        "settings": {name: value for name, value in sorted(os.environ.items()) if name.startswith("UCX_")},
    }
    status, summary, remedy = judge_ucx(release, file, _origin(file), packages)
    return Check("ucx", status, summary, remedy, facts)


def judge_ucx(
    release: tuple[int, int, int] | None, file: str, origin: str | None, packages: dict[str, str]
) -> tuple[Status, str, str]:
    """Status, summary and remedy for a UCX of this release, file and origin."""
    if release is None:
        return "problem", "no UCX was found, neither a libucx package nor a system library", _INSTALL
    names = " and ".join(f"{name} {number}" for name, number in packages.items())
    found = f"{'.'.join(map(str, release))} from {file} ({names if origin == 'wheel' else 'from no libucx package'})"
    without = (
        f"start without what loads {file} (LD_PRELOAD, LD_LIBRARY_PATH, a module imported before kvtransfer); "
        f"if you want that one, say so with {_PREFER_SYSTEM}=true"
    )
    if release[:2] < MINIMUM or release[:2] == BROKEN:
        flaw = "is too old" if release[:2] < MINIMUM else "cannot reach peers over tcp on one host"
        return "problem", f"{found} {flaw}", without if origin == "other" else _INSTALL
    if len(packages) > 1:
        remedy = f"keep one of them: pip uninstall -y {' '.join(packages)} && {_INSTALL}"
        return "warning", f"{found}; these packages overwrite each other's files", remedy
    if origin == "other":
        return "warning", f"{found} takes the place of the installed {names}: it was found or loaded first", without
    if release[:2] >= UNTESTED:
        return "warning", f"{found} is newer than what this version was tested with", _INSTALL
    return "ok", found, ""


def installed_wheels() -> dict[str, str]:
    """The libucx packages of this environment and their versions; they all own the same folder."""
    return {name: number for name in _WHEELS if (number := installed(name)) is not None}


def _wheel_folder() -> Path | None:
    spec = importlib.util.find_spec("libucx")
    return Path(spec.origin).resolve().parent if spec is not None and spec.origin else None


def _origin(file: str) -> str | None:
    if not file:
        return None
    folder = _wheel_folder()
    if folder is not None and Path(file).resolve().is_relative_to(folder):
        return "wheel"
    wanted = os.environ.get(_PREFER_SYSTEM, "false").lower() != "false"
    return "system" if wanted or folder is None else "other"


def _version(file: str) -> tuple[int, int, int] | None:
    try:
        library = ctypes.CDLL(file, mode=ctypes.RTLD_LOCAL)
        numbers = [ctypes.c_uint() for _ in range(3)]
        library.ucp_get_version(*(ctypes.byref(one) for one in numbers))
    except (OSError, AttributeError):
        return None
    major, minor, release = (one.value for one in numbers)
    return major, minor, release


def check_copies(file: str) -> Check:
    """Other copies of UCX: mapped into this process, which is trouble, or only installed, which is not."""
    mapped = one_of_each(mapped_files(read("/proc/self/maps"), _ANY_LIBRARY))
    elsewhere = [one for one in installed_copies(sys.path) if _folder(one) not in map(_folder, mapped)]
    facts: dict[str, object] = {"mapped": mapped, "installed_elsewhere": elsewhere}
    if len(mapped) > 1:
        kept = next((one for one in mapped if _origin(one) == "wheel"), file)
        foreign = [one for one in mapped if _folder(one) != _folder(kept)]
        remedy = (
            f"run KVDirect without {', '.join(foreign)}: unset LD_PRELOAD, or do not import what loads it into the "
            "same process (NIXL brings a UCX of its own)"
        )
        return Check("ucx_copies", "warning", f"{len(mapped)} in this process: {', '.join(mapped)}", remedy, facts)
    also = f"; installed, not loaded: {', '.join(elsewhere)}" if elsewhere else ""
    return Check("ucx_copies", "ok", f"{len(mapped)} in this process{also}", facts=facts)


def one_of_each(files: Iterable[str]) -> list[str]:
    """One file of each copy, which is a folder of libraries; its libucp if that is among them."""
    copies: dict[Path, str] = {}
    for file in files:
        if _folder(file) not in copies or re.match(_LIBRARY, Path(file).name):
            copies[_folder(file)] = file
    return sorted(copies.values())


def installed_copies(search: Iterable[str]) -> list[str]:
    """Files of UCX under module folders and in the usual system folders; one for each copy."""
    found: dict[Path, str] = {}
    patterns = [(Path(folder), pattern) for folder in search if folder for pattern in _BUNDLED]
    patterns += [(Path("/"), f"{folder}/libucp*.so*") for folder in _SYSTEM]
    for folder, pattern in patterns:
        for path in sorted(folder.glob(pattern)) if folder.is_dir() else ():
            if re.match(_LIBRARY, path.name):
                found.setdefault(_folder(str(path)), str(path))
    return sorted(found.values())


def _folder(file: str) -> Path:
    return Path(file).resolve().parent


def check_transports(file: str) -> Check:
    """What UCX itself says it can talk over."""
    facts: dict[str, object] = {"program": None, "transports": []}
    program = _ucx_info(file)
    if program is None:
        summary = "unknown: there is no ucx_info beside the UCX in use; the lanes below were tried all the same"
        return Check("ucx_transports", "ok", summary, facts=facts)
    facts["program"], remedy = str(program), f"run `{program} -d` and see why"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("UCX_")}
    try:
        done = run([str(program), "-d"], environment={**clean, "LD_LIBRARY_PATH": str(Path(file).parent)})
    except ProgramError as error:
        return Check("ucx_transports", "warning", f"unknown: {error}", remedy, facts)
    transports = parse_transports(done.stdout)
    facts["transports"] = transports
    if not transports:
        words = (done.stderr or done.stdout).strip().splitlines()[-1:] or [f"status {done.returncode}"]
        return Check("ucx_transports", "warning", f"none: {words[0]}", remedy, facts)
    over: dict[str, list[str]] = {}
    for one in transports:
        over.setdefault(one["transport"], []).append(one["device"])
    summary = "; ".join(f"{name} on {', '.join(found)}" for name, found in over.items())
    return Check("ucx_transports", "ok", summary, facts=facts)


def parse_transports(text: str) -> list[dict[str, str]]:
    """Transports and their devices from the output of `ucx_info -d`, in its order."""
    found: list[dict[str, str]] = []
    transport = ""
    for line in text.splitlines():
        match = re.match(r"#\s+(Transport|Device):\s*(\S+)", line)
        if match is None:
            continue
        if match[1] == "Transport":
            transport = match[2]
        else:
            found.append({"transport": transport, "device": match[2]})
    return found


def _ucx_info(file: str) -> Path | None:
    """The program of the same UCX: another one's would tell about another library."""
    if not file:
        return None
    beside = Path(file).resolve().parent.parent / "bin" / "ucx_info"
    if beside.is_file():
        return beside
    system = shutil.which("ucx_info")
    return Path(system) if system and _origin(file) == "system" else None
