# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Finds UCX, checks its version and loads the native core, and later finds what computes MACs; UCX is not started."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import sys
from pathlib import Path

from .errors import ConfigError

MINIMUM_UCX = (1, 19)
# It finds no route to a peer on the same host: it takes the wrong bytes for the peer's address.
BROKEN_UCX = (1, 20)
UCX_SONAME = "libucp.so.0"
_INSTALL_HINT = "Install UCX 1.19, 1.21 or 1.22: `pip install libucx-cu13` (or libucx-cu12), or the system's package"


def _find_ucx() -> ctypes.CDLL:
    # RTLD_LOCAL everywhere: UCX's symbols must not shadow those of another UCX in this process (NIXL brings its own).
    try:
        import libucx  # noqa: PLC0415  (optional: a system UCX does as well)
    except ImportError:
        pass
    else:
        try:
            libucx.load_library()
        except OSError as error:
            raise ConfigError(
                "the libucx wheel's UCX cannot be loaded",
                operation="import kvtransfer",
                status=str(error),
                hint="Another UCX may be in this process already (LD_PRELOAD, or another library's): `kvdirect doctor` "
                "names it; import kvtransfer first, or let both use the same release",
            ) from error
    try:
        return ctypes.CDLL(UCX_SONAME, mode=ctypes.RTLD_LOCAL)
    except OSError as error:
        raise ConfigError(
            f"{UCX_SONAME} was not found, neither in a libucx wheel nor on the loader's path",
            operation="import kvtransfer",
            status=str(error),
            hint=_INSTALL_HINT,
        ) from error


def _version(library: ctypes.CDLL) -> tuple[int, int, int]:
    numbers = [ctypes.c_uint() for _ in range(3)]
    library.ucp_get_version(*(ctypes.byref(number) for number in numbers))
    major, minor, release = (number.value for number in numbers)
    return major, minor, release


def _mapped_file(library: ctypes.CDLL) -> str:
    address = ctypes.cast(library.ucp_get_version, ctypes.c_void_p).value or 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *fields = line.split(maxsplit=5)
        low, high = (int(bound, 16) for bound in span.split("-"))
        if low <= address < high and len(fields) == 5:
            return fields[4]
    return UCX_SONAME


def _load() -> ctypes.CDLL:
    library = _find_ucx()
    found = _version(library)
    if found[:2] < MINIMUM_UCX or found[:2] == BROKEN_UCX:
        flaw = "is too old" if found[:2] < MINIMUM_UCX else "cannot reach peers on one host"
        raise ConfigError(
            f"UCX {'.'.join(map(str, found))} at {_mapped_file(library)} {flaw}",
            operation="import kvtransfer",
            hint=_INSTALL_HINT,
        )
    return library


_ucx = _load()

try:
    from . import _core as core
except ImportError as error:
    raise ConfigError(
        "the native core could not be loaded",
        operation="import kvtransfer",
        status=str(error),
        hint="Reinstall kvdirect for this Python, or rebuild it with `pip install -e .`",
    ) from error

__all__ = ["core", "load_mac_library", "ucx_file", "ucx_version"]


@functools.cache
def load_mac_library() -> str:
    """Which file computes HMAC-SHA256; loads it into the core if there is none yet. ConfigError where none is found."""
    return core.load_mac_library([str(path) for path in _files_of_this_python()])


def _files_of_this_python() -> list[Path]:
    """Libraries that the loader does not find by name: an environment's own, and what pyzmq's wheel brings."""
    folders = [Path(prefix) / "lib" for prefix in dict.fromkeys((sys.prefix, sys.base_prefix))]
    files = [file for folder in folders for file in folder.glob("libcrypto.so.[13]*")]
    zmq = importlib.util.find_spec("zmq")
    for place in (zmq.submodule_search_locations or ()) if zmq else ():
        files += Path(place).parent.glob("pyzmq.libs/libsodium*.so*")
    return files


def ucx_version() -> str:
    """The version of the UCX library in use, for example "1.19.0"."""
    return ".".join(map(str, _version(_ucx)))


def ucx_file() -> str:
    """The file that UCX was really mapped from."""
    return _mapped_file(_ucx)
