# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the command lines of all benchmarks have in common."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from .errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that names the way out."""

    def error(self, message: str) -> NoReturn:
        """End with one line on standard error and status 2."""
        self.exit(2, f"{self.prog}: error: {message} (see `{self.prog} --help`)\n")

    def main(self, run: Callable[[argparse.Namespace], int], argv: Sequence[str] | None) -> int:
        """Parse, run, and say in one line what cannot be done; the exit status."""
        args = self.parse_args(argv)
        try:
            return run(args)
        except BenchError as error:
            print(f"{self.prog}: error: {error}", file=sys.stderr)
            return error.status
        except KeyboardInterrupt:
            say("interrupted; everything it started has been stopped")
            return 130


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def interrupted(number: int, frame: object) -> NoReturn:
    """For SIGTERM: what was started is ended as by Ctrl-C."""
    del number, frame
    raise KeyboardInterrupt


def add_judged(parser: argparse.ArgumentParser, rounds: int) -> None:
    """Declare the options of what measures and judges."""
    parser.add_argument("--rounds", type=int, default=rounds, help="turns of each engine (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all rows there")
    parser.add_argument("--peer-python", action="append", default=[], metavar="LIB=PATH", help="as in `kvdirect bench`")
