# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""`kvdirect top`: a router, its instances, their lanes, leases, pulls and refusals in a terminal, again and again."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import deque
from typing import TYPE_CHECKING, TypeVar

from kvdirect.errors import CommandError, UsageError
from kvdirect.router.config import ProxyConfigError, checked_url

if TYPE_CHECKING:
    import argparse
    from collections.abc import Coroutine

    from rich.console import Console

    from kvdirect.watch.sources import Reading, Sources

_T = TypeVar("_T")
_WINDOW = 10.0  # seconds that rates are of, where a frame is redrawn
_PLAIN_WIDTH = 400  # where nobody has a window, no line is broken


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `kvdirect top`."""
    parser.add_argument("--router", required=True, metavar="URL", help="base URL of the router")
    text = "base URL of an engine to ask; repeat for several (default: the instances that the router names)"
    parser.add_argument("--engine", action="append", default=[], metavar="URL", help=text)
    text = "between two frames; with --once, that rates are of (default: 1)"
    parser.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help=text)
    text = "that one answer may take (default: 3)"
    parser.add_argument("--timeout", type=float, default=3.0, metavar="SECONDS", help=text)
    parser.add_argument("--once", action="store_true", help="print one frame as plain text; exit 1 without a router")


def run(args: argparse.Namespace) -> int:
    """Show frames until Ctrl-C or SIGTERM, or print one.

    Returns:
        0; 1 where there was to be one frame and the router did not answer.

    Raises:
        UsageError: An option cannot be used.
        CommandError: A package is missing, or there is no terminal.
    """
    for name in ("interval", "timeout"):
        if not 0 < getattr(args, name) <= 3600:
            raise UsageError(f"--{name} is {getattr(args, name)}; expected seconds above 0, at most 3600")
    try:
        router = checked_url("router", args.router)
        engines = [checked_url("engine", url) for url in args.engine]
    except ProxyConfigError as error:
        raise UsageError(str(error)) from error
    try:
        from rich.console import Console  # noqa: PLC0415 (an extra)

        from kvdirect.watch.sources import Sources  # noqa: PLC0415 (its packages are the same extra)
    except ModuleNotFoundError as error:
        raise CommandError(f'this needs the Python package {error.name!r}: pip install "kvdirect[top]"') from error
    sources = Sources(router, engines, args.timeout)
    if args.once:
        width = None if sys.stdout.isatty() else _PLAIN_WIDTH
        return asyncio.run(_once(sources, Console(width=width, color_system=None), args.interval))
    console = Console()
    if not sys.stdout.isatty():  # rich believes the environment more (FORCE_COLOR)
        raise CommandError("the output is no terminal; print one frame with --once")
    return asyncio.run(_live(sources, console, args.interval))


async def _once(sources: Sources, console: Console, interval: float) -> int:
    async with sources, _Stop() as stop:
        before = await stop.unless(sources.read())
        await stop.unless(asyncio.sleep(interval))
        now = await stop.unless(sources.read())
    if before is None or now is None:
        return 130
    _draw(console, sources, now, before)
    return 0 if now.status is not None else 1


def _draw(console: Console, sources: Sources, now: Reading, before: Reading | None) -> None:
    from kvdirect.watch.frame import Frame  # noqa: PLC0415 (an extra)

    with console.capture() as frame:
        console.print(Frame(sources.router, now, before).render())
    for line in frame.get().splitlines():
        print(line.rstrip())  # panels fill their lines with spaces


async def _live(sources: Sources, console: Console, interval: float) -> int:
    from rich.live import Live  # noqa: PLC0415 (an extra)

    from kvdirect.watch.frame import Frame  # noqa: PLC0415 (an extra)

    clock = asyncio.get_running_loop().time
    readings: deque[Reading] = deque()
    async with sources, _Stop() as stop:
        with Live("reading ...", console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
            while not stop.asked.is_set():
                due = clock() + interval
                now = await stop.unless(sources.read())
                if now is None:
                    break
                readings.append(now)
                while len(readings) > 2 and now.when - readings[1].when >= _WINDOW:
                    readings.popleft()
                before = readings[0] if len(readings) > 1 else None
                live.update(Frame(sources.router, now, before).render(), refresh=True)
                await stop.unless(asyncio.sleep(due - clock()))
    return 0


class _Stop:
    """Ctrl-C and SIGTERM, which end whatever is waited for."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def __aenter__(self) -> _Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self.asked.set)
        return self

    async def __aexit__(self, *_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().remove_signal_handler(number)

    async def unless(self, what: Coroutine[object, object, _T]) -> _T | None:
        """What it comes to, or None once stopping was asked for."""
        work, asked = asyncio.ensure_future(what), asyncio.ensure_future(self.asked.wait())
        try:
            await asyncio.wait((work, asked), return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else None
        finally:
            work.cancel()
            asked.cancel()
            await asyncio.gather(work, asked, return_exceptions=True)
