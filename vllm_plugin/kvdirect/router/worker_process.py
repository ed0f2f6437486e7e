# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A worker as the keeper sees it: a process, and the channel to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Self

from .channel import Channel

if TYPE_CHECKING:
    from collections.abc import Callable

    from .channel import Message

# A program of its own rather than a fork: the keeper has a running event loop. It finds modules where the keeper did.
# Signals are the keeper's affair.
_PROGRAM = "import signal; [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)]; "
_PROGRAM += "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from kvdirect.router.worker import main; "
_PROGRAM += "sys.exit(main(int(sys.argv[2])))"


class WorkerProcess:
    """One process.

    Attributes:
        number: Whose place it has.
        channel: To it.
        ready: It serves, or may begin to.
    """

    def __init__(self, number: int, process: subprocess.Popen[bytes], channel: Channel) -> None:
        self.number = number
        self.channel = channel
        self.ready = False
        self._process = process
        self._ended = asyncio.Event()
        self._descriptor = os.pidfd_open(process.pid)
        asyncio.get_running_loop().add_reader(self._descriptor, self._reap)

    @classmethod
    async def start(cls, number: int, descriptors: tuple[int, ...]) -> Self:
        """Start one, to which these descriptors are passed on."""
        ours, theirs = socket.socketpair()
        with theirs:
            words = [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), str(theirs.fileno())]
            process = subprocess.Popen(  # noqa: S603, ASYNC220 (the command is ours, and there in no time)
                words, pass_fds=(theirs.fileno(), *descriptors), stdin=subprocess.DEVNULL
            )
        try:
            return cls(number, process, await Channel.over(ours))
        except BaseException:
            process.kill()
            raise

    async def run(self, on_message: Callable[[Message], object]) -> str:
        """Listen to it until it ends; returns how it did."""
        await self.channel.serve(on_message)
        # Without its channel it is of no use, and it knows: it ends by itself, or is ended.
        await self.end(5.0)
        status = self._process.returncode
        if status is not None and status < 0:
            return f"killed by {signal.Signals(-status).name}"
        return f"with status {status}"

    async def end(self, seconds: float) -> None:
        """Wait for its end, and bring it about when the time is over."""
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            self.kill()
            await self._ended.wait()

    def kill(self) -> None:
        """End it now."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def _reap(self) -> None:
        if self._process.poll() is not None and not self._ended.is_set():
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._ended.set()
