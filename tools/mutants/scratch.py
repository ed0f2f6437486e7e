# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A copy of the tree in which faults are built and tested; it stays, so that only what changed is built again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .mutant import Mutant

ROOT = Path(__file__).resolve().parent.parent.parent
_SECONDS = 900  # for a build, or the tests of one mutant
_BIN = Path(sys.executable).parent


class Scratch:
    """`folder` below the tree's build folder."""

    def __init__(self, folder: Path) -> None:
        self.tree = folder / "tree"
        self._ucx = self._said(_BIN / "python", "-c", "import libucx; print(libucx.__path__[0])") + "/lib"
        self._environment = {
            **os.environ,
            "CCACHE_BASEDIR": str(self.tree),
            "CCACHE_NOHASHDIR": "1",
            "LD_LIBRARY_PATH": self._ucx,
            "PYTHONPATH": os.pathsep.join(str(self.tree / part) for part in (".", "vllm_plugin", "bench", "tests")),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def refresh(self) -> None:
        """Make it the tree as it is now; files that are the same keep their times."""
        listed = self._said("git", "-C", ROOT, "ls-files", "-co", "--exclude-standard").splitlines()
        files = {name for name in listed if (ROOT / name).is_file()}
        for name in files:
            self._write(self.tree / name, (ROOT / name).read_bytes())
        for module in ROOT.glob("kvtransfer/_core*.so"):  # where nothing of the core is changed
            self._write(self.tree / "kvtransfer" / module.name, module.read_bytes())

    def put(self, mutant: Mutant) -> None:
        """Have the fault in it."""
        self._write(self.tree / mutant.file, mutant.applied(ROOT).encode())

    def restore(self, mutant: Mutant) -> None:
        """Have it no more."""
        self._write(self.tree / mutant.file, (ROOT / mutant.file).read_bytes())

    def build(self, mutant: Mutant) -> None:
        """What its tests run; raises where it does not compile."""
        if mutant.cpp or mutant.fuzz:
            programs = ["kvdirect_tests"] * bool(mutant.cpp) + ["kvdirect_fuzz"] * bool(mutant.fuzz)
            self._build("cpp", programs, "RelWithDebInfo", "-DKVDIRECT_TESTS=ON")
        if mutant.native and mutant.pytest:
            nanobind = self._said(_BIN / "python", "-m", "nanobind", "--cmake_dir")
            self._build(
                "core",
                ["_core"],
                "Release",
                f"-DPython_EXECUTABLE={_BIN / 'python'}",
                f"-Dnanobind_DIR={nanobind}",
                f"-DKVDIRECT_OUTPUT_DIR={self.tree / 'kvtransfer'}",
                "-DKVDIRECT_TEST_HOOKS=ON",
            )

    def passes(self, mutant: Mutant) -> bool:
        """Whether its tests are green."""
        tests = self.tree / "build" / "cpp" / "tests" / "cpp"
        if mutant.cpp and not self._green([str(tests / "kvdirect_tests"), mutant.cpp]):
            return False
        for target in mutant.fuzz:
            corpus = str(self.tree / "tests" / "cpp" / "fuzz" / "corpus" / target)
            if not self._green([str(tests / "fuzz" / "kvdirect_fuzz"), target, corpus]):
                return False
        pytest = [str(_BIN / "python"), "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutant.pytest]
        return not mutant.pytest or self._green(pytest)

    def _green(self, command: Sequence[str]) -> bool:
        with (self.tree.parent / "last.log").open("wb") as log:
            try:
                ended = subprocess.run(  # noqa: S603  (the tree's own tests)
                    command, cwd=self.tree, env=self._environment, timeout=_SECONDS, check=False, stdout=log, stderr=log
                )
            except subprocess.TimeoutExpired:  # for some faults there is no end
                return False
        return ended.returncode == 0

    def _build(self, name: str, targets: Sequence[str], kind: str, *options: str) -> None:
        build = self.tree / "build" / name
        if not (build / "build.ninja").exists():
            self._run(
                str(_BIN / "cmake"), "-S", str(self.tree), "-B", str(build), "-G", "Ninja",
                f"-DCMAKE_MAKE_PROGRAM={_BIN / 'ninja'}", f"-DCMAKE_BUILD_TYPE={kind}",
                "-DCMAKE_CXX_COMPILER_LAUNCHER=ccache" if self._has_ccache() else "-DCMAKE_CXX_COMPILER_LAUNCHER=",
                f"-Ducx_DIR={self._ucx}/cmake/ucx", *options,
            )  # fmt: skip
        self._run(str(_BIN / "cmake"), "--build", str(build), "--target", *targets)

    def _run(self, *command: str) -> None:
        ended = subprocess.run(  # noqa: S603  (cmake)
            command, env=self._environment, timeout=_SECONDS, check=False, capture_output=True, text=True
        )
        if ended.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {ended.returncode}\n{ended.stdout}\n{ended.stderr}")

    @staticmethod
    def _has_ccache() -> bool:
        return any((Path(folder) / "ccache").exists() for folder in os.environ["PATH"].split(os.pathsep))

    @staticmethod
    def _said(*command: str | Path) -> str:
        # What is run is written here.
        return subprocess.run([*command], check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603

    @staticmethod
    def _write(file: Path, data: bytes) -> None:
        if not file.exists() or file.read_bytes() != data:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
