# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""One read of a selection of blocks under a lease. The core's own class: a wrapper would be a tenth of a small pull."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ._native import core

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Generator


Pull = core.Pull
PullResult = core.PullResult


def awaited(pull: Pull) -> Generator[object, None, PullResult]:
    """What `await` does with a pull."""
    if not pull.done:
        yield from _readable(pull).__await__()
    return pull.result()


async def _readable(pull: Pull) -> None:
    import asyncio  # noqa: PLC0415 (whoever awaits has it; to import it takes a tenth of what this package does)

    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    # A descriptor of its own per awaiter: a loop knows one callback per descriptor, and ours may be awaited twice.
    descriptor = os.dup(pull.fileno())
    try:
        loop.add_reader(descriptor, _finish, ended)
        try:
            await ended
        finally:
            loop.remove_reader(descriptor)
    finally:
        os.close(descriptor)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
