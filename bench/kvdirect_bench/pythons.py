# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Which Python runs a backend: this one if it has the library, else an environment of the library's own."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import BenchError, BenchUsageError
from .native import yardsticks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .contenders import Contender

_HERE = Path(__file__).resolve().parent
# The package's folder comes last, so that a backend's environment keeps its own NumPy.
_BOOT = "import sys; sys.path.append(sys.argv.pop(1)); from kvdirect_bench.worker import main; main()"


def worker_command(python: str, module: str, side: str) -> list[str]:
    """The command line of one side of one engine."""
    return [python, "-P", "-c", _BOOT, str(_HERE.parent), module, side]


def worker_environment(python: str, more: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Ours; the modules of this process are found by the same Python and by no other one."""
    environment = {**os.environ, **dict(more)}
    environment.pop("PYTHONPATH", None)
    if python == sys.executable:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    return environment


def python_of(contender: Contender, chosen: Mapping[str, str]) -> str:
    """The Python that can run that contender.

    Raises:
        BenchError: There is none; says what is missing, and how to get it.
    """
    if contender.native:
        yardsticks()
    return find_python(contender.needs, chosen)


def find_python(library: str, chosen: Mapping[str, str], *, environment: str = "", target: str = "bench-peers") -> str:
    """The Python that has `library`; "" needs none.

    Args:
        library: A module's name.
        chosen: Pythons that the user named, by library.
        environment: What the name of its environment ends in, where that is not the library's.
        target: Of make, which makes that environment.

    Raises:
        BenchError: There is none.
    """
    if library in chosen:
        return chosen[library]
    if not library or importlib.util.find_spec(library) is not None:
        return sys.executable
    folder = f".venv-bench-{environment or library}"
    for root in (Path.cwd(), _HERE.parent.parent):
        python = root / folder / "bin" / "python"
        if python.is_file():
            return str(python)
    raise BenchError(
        f"{library} is installed neither in this Python nor in {folder}; "
        f"run `make {target}`, or name a Python that has it with --peer-python {library}=PATH"
    )


def parse_pythons(words: Sequence[str]) -> dict[str, str]:
    """The values of --peer-python: LIBRARY=PATH each."""
    chosen = {}
    for word in words:
        library, equals, path = word.partition("=")
        if not equals or not os.access(path, os.X_OK) or Path(path).is_dir():
            raise BenchUsageError(f"--peer-python {word}: expected LIBRARY=PATH, with the path of a Python program")
        chosen[library] = path
    return chosen
