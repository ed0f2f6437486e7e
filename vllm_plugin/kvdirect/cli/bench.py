# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""`kvdirect bench`: the transfer benchmark, which is a package of its own."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kvdirect.errors import CommandError, UsageError

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `kvdirect bench`."""
    _module("options").add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure transfers, or with the word `rows` gathers of rows; 0 if every byte was right, else 1.

    Raises:
        CommandError: It could not be measured.
    """
    if words := getattr(args, "words", ()):
        status: int = _module("gather.cli").main(words[1:], prog="kvdirect bench rows")
        return status
    errors, command = _module("errors"), _module("cli")
    try:
        status = command.run(args)
    except errors.BenchUsageError as error:
        raise UsageError(str(error)) from error
    except errors.BenchError as error:
        raise CommandError(str(error)) from error
    return status


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"kvdirect_bench.{name}")
    except ModuleNotFoundError as error:
        raise CommandError(
            f"`kvdirect bench` needs the Python module {error.name!r}, which is not installed here; install kvdirect "
            "again, or run bench/transfer_bench.py of a checkout"
        ) from error
