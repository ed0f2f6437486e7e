# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Builds csrc/ with CMake into kvtransfer/_core; everything else is in pyproject.toml."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
MACHINES = ("x86_64", "aarch64")
# From here on one extension serves all Pythons (CMakeLists.txt).
STABLE_SINCE = (3, 12)
STABLE = sys.version_info >= STABLE_SINCE
SWITCHES = ("KVDIRECT_TEST_HOOKS", "KVDIRECT_BENCH", "KVDIRECT_PORTABLE")


def refuse_other_platforms() -> None:
    """The lanes are Linux system calls; say so at once instead of failing in a compiler."""
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        raise SystemExit(
            f"kvdirect supports Linux on {' and '.join(MACHINES)}; this is {sys.platform} on {platform.machine()}"
        )


def ucx_cmake_folder() -> str:
    """Where UCX's CMake package is: $KVDIRECT_UCX_DIR (a system UCX, for RDMA), else the libucx wheel."""
    chosen = os.environ.get("KVDIRECT_UCX_DIR")
    if chosen:
        folder = Path(chosen)
        if not (folder / "ucx-config.cmake").is_file():
            raise SystemExit(f"KVDIRECT_UCX_DIR={chosen}: no ucx-config.cmake there; name the folder that holds it")
        return str(folder)
    import libucx  # noqa: PLC0415  (only needed for this choice)

    return str(Path(libucx.__file__).parent / "lib" / "cmake" / "ucx")


def asked(name: str) -> bool:
    """Whether the environment switches that on."""
    return os.environ.get(name) == "1"


class CMakeBuild(build_ext):
    """Configure, and build the extension into the place setuptools expects; KVDIRECT_BENCH=1: bench/native too."""

    def build_extension(self, ext: Extension) -> None:
        import nanobind  # noqa: PLC0415  (a build requirement, absent when only metadata is asked for)

        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja",
            "-DCMAKE_BUILD_TYPE=" + ("Debug" if self.debug else "Release"),
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dnanobind_DIR={nanobind.cmake_dir()}",
            f"-Ducx_DIR={ucx_cmake_folder()}",
            f"-DKVDIRECT_OUTPUT_DIR={output.parent}",
            *(f"-D{name}={'ON' if asked(name) else 'OFF'}" for name in SWITCHES),
        ]  # fmt: skip
        subprocess.run(configure, check=True)
        targets = ["_core", *(["_native"] if asked("KVDIRECT_BENCH") else [])]
        subprocess.run(["cmake", "--build", str(build), "--target", *targets], check=True)


refuse_other_platforms()
setup(
    ext_modules=[Extension("kvtransfer._core", sources=[], py_limited_api=STABLE)],
    cmdclass={"build_ext": CMakeBuild},
    options={"bdist_wheel": {"py_limited_api": "cp{}{}".format(*STABLE_SINCE)}} if STABLE else {},
)
