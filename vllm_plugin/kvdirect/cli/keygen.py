# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""`kvdirect keygen`: a key for an engine, and the public part that others add to their list of peers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kvdirect.errors import CommandError
from kvtransfer.errors import ConfigError

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `kvdirect keygen`."""
    parser.add_argument("file", type=Path, help="the private key; its public part is beside it, with .pub at the end")
    parser.add_argument("--comment", default="", help="who it is, for people (default: the file's name)")


def run(args: argparse.Namespace) -> int:
    """Make a key; returns 0.

    Raises:
        CommandError: A file is there already or cannot be written.
    """
    from kvdirect.keys.identity import generate  # noqa: PLC0415  (its library is slow to load)

    try:
        public = generate(args.file, args.comment or args.file.stem)
    except ConfigError as error:
        raise CommandError(str(error)) from error
    except ModuleNotFoundError as error:
        raise CommandError(f'this needs the Python package {error.name!r}: pip install "kvdirect[keys]"') from error
    print(f"{args.file} is the key (key_file), for this engine only; add {public} to every engine's list (peers_file)")
    return 0
