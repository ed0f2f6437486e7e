# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Which UCX is loaded, and what is said when none will do."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kvtransfer as kt

OLD_UCX = """
void ucp_get_version(unsigned *major, unsigned *minor, unsigned *release) { *major = %d; *minor = %d; *release = %d; }
"""


def import_without_wheel(
    folder: Path, wheel: str = "raise ImportError('hidden by the test')"
) -> subprocess.CompletedProcess[str]:
    """Import kvtransfer where no libucx wheel can be found, or a broken one; `folder` may hold another libucp."""
    (folder / "libucx.py").write_text(wheel + "\n")
    package = Path(kt.__file__).resolve().parent.parent
    return subprocess.run(
        [sys.executable, "-c", "import kvtransfer"],
        env={**os.environ, "PYTHONPATH": f"{folder}:{package}", "LD_LIBRARY_PATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("version", "complaint"),
    [((1, 17, 3), "is too old"), ((1, 20, 1), "cannot reach peers on one host")],
    ids=["old", "broken"],
)
def test_a_ucx_that_will_not_do_is_refused(tmp_path: Path, version: tuple[int, int, int], complaint: str) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler to make a library that calls itself another UCX")
    library = tmp_path / "libucp.so.0"
    (tmp_path / "old.c").write_text(OLD_UCX % version)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-Wl,-soname,libucp.so.0", "-o", library, tmp_path / "old.c"],
        check=True,
        timeout=60,
    )
    done = import_without_wheel(tmp_path)
    assert done.returncode != 0
    number = ".".join(map(str, version))
    assert f"ConfigError: import kvtransfer: UCX {number} at {library} {complaint}" in done.stderr
    assert "libucx" in done.stderr


def test_no_ucx_is_an_error_that_names_the_remedy(tmp_path: Path) -> None:
    if ctypes.util.find_library("ucp") is not None:
        pytest.skip("this system has a UCX of its own, which would be found")
    done = import_without_wheel(tmp_path)
    assert done.returncode != 0
    assert "ConfigError: import kvtransfer: libucp.so.0 was not found" in done.stderr
    assert "pip install libucx" in done.stderr


def test_a_wheel_that_cannot_be_loaded_is_no_bare_os_error(tmp_path: Path) -> None:
    """As when another release of UCX is in the process before ours."""
    wheel = "def load_library():\n    raise OSError('undefined symbol: ucs_gone')"
    done = import_without_wheel(tmp_path, wheel)
    assert done.returncode != 0
    assert "ConfigError: import kvtransfer: the libucx wheel's UCX cannot be loaded" in done.stderr
    assert "ucs_gone" in done.stderr
    assert "kvdirect doctor" in done.stderr


def test_ucx_symbols_stay_local() -> None:
    """Another UCX in this process must not be bound to ours."""
    with pytest.raises(AttributeError):
        _ = ctypes.CDLL(None).ucp_get_version


MAKE_AN_ENGINE = """
import kvtransfer as kt
from kvtransfer._native import load_mac_library
kt.Engine(name="one").close()
print(load_mac_library())
"""


def make_an_engine_without_system_libraries(folder: Path) -> subprocess.CompletedProcess[str]:
    """Make an engine where every library of the system that computes HMAC-SHA256 is damaged."""
    for name in ("libcrypto.so.3", "libcrypto.so.1.1", "libsodium.so.23", "libsodium.so.26"):
        (folder / name).write_text("not a library")
    package = Path(kt.__file__).resolve().parent.parent
    return subprocess.run(
        [sys.executable, "-c", MAKE_AN_ENGINE],
        env={**os.environ, "PYTHONPATH": f"{folder}:{package}", "LD_LIBRARY_PATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_a_library_for_macs_there_is_no_engine_and_the_remedy_is_named(tmp_path: Path) -> None:
    (tmp_path / "zmq.py").write_text("raise ImportError('hidden by the test')\n")
    done = make_an_engine_without_system_libraries(tmp_path)
    assert done.returncode != 0
    assert "ConfigError: make an engine: no library that computes HMAC-SHA256 was found" in done.stderr
    assert all(name in done.stderr for name in ("libcrypto.so.3", "libsodium.so.23", "pip install pyzmq"))


def test_the_library_of_pyzmqs_wheel_will_do(tmp_path: Path) -> None:
    pytest.importorskip("zmq")
    done = make_an_engine_without_system_libraries(tmp_path)
    if "no library that computes" in done.stderr:
        pytest.skip("this pyzmq was built against a system's libsodium")
    assert done.returncode == 0, done.stderr
    assert "pyzmq.libs/libsodium" in done.stdout
