# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""`kvdirect keygen`: the name is taken for the keys that engines will know each other by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvdirect.errors import UsageError

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It has none yet."""
    del parser


def run(args: argparse.Namespace) -> int:
    """Refuse.

    Raises:
        UsageError: always.
    """
    del args
    raise UsageError(
        "keys are not supported yet, and nothing was written; until they are, keep kv_port and the engines' HTTP ports "
        "on a network that only engines and routers share"
    )
