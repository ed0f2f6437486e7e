# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Get the Python source of a vLLM version to read, where that version cannot be installed.

    fetch_vllm_source.py VERSION FOLDER

It is taken out of the wheel, which pip finds wherever it finds packages; pip does not hand out an sdist without
running its build, which needs a CUDA torch. Nothing is installed or imported.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path


def download(version: str, folder: Path) -> Path:
    """The wheel of vLLM for this machine."""
    options = ("--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(folder))
    subprocess.run([sys.executable, "-m", "pip", "download", *options, f"vllm=={version}"], check=True)  # noqa: S603
    return next(folder.glob("vllm-*.whl"))


def unpack(wheel: Path, folder: Path) -> int:
    """Put the Python files of the wheel's `vllm` package under `folder`; how many there are."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith("vllm/") and name.endswith(".py")]
        archive.extractall(folder, names)
    return len(names)


def main() -> None:
    """Download, unpack, and leave nothing else behind."""
    if len(sys.argv) != 3:
        raise SystemExit(f"usage: {Path(sys.argv[0]).name} VERSION FOLDER")
    version, folder = sys.argv[1], Path(sys.argv[2])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=folder) as room:
        count = unpack(download(version, Path(room)), folder)
    if count == 0:
        raise SystemExit(f"the wheel of vllm {version} has no Python files in vllm/")
    sys.stdout.write(f"vllm {version}: {count} Python files in {folder / 'vllm'}\n")


if __name__ == "__main__":
    main()
