# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""One read of a selection of blocks under a lease."""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING

from ._native import core
from .errors import InvalidState, KVTransferError, PullCancelled, WaitTimeout
from .waiting import SLICE

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Generator


PullResult = core.PullResult


class Pull:
    """A running or finished pull; made by `Peer.pull`. Thread-safe, awaitable.

    Dropping the object does not cancel the pull.
    """

    __slots__ = ("__weakref__", "_keepalive", "_native", "_peer_name")

    def __init__(self, native: core.Pull, peer_name: str, keepalive: object) -> None:
        """Wrap a native pull; `keepalive` holds the destination memory."""
        self._native = native
        self._peer_name = peer_name
        self._keepalive = keepalive

    @property
    def done(self) -> bool:
        """The outcome is known."""
        return self._native.done()

    @property
    def quiet(self) -> bool:
        """No byte can land in the destination any more, whatever the outcome."""
        return self._native.quiet()

    @property
    def cancelled(self) -> bool:
        """It ended because `cancel` was called."""
        try:
            self._native.outcome()
        except PullCancelled:
            return True
        except KVTransferError:
            return False
        return False

    def poll(self) -> bool:
        """Whether it is done; never blocks, never raises."""
        return self._native.done()

    def result(self) -> PullResult:
        """The outcome of a finished pull.

        Raises:
            InvalidState: It is still running.
            PullError: It failed; the destination blocks must not be used, and not be reused before `quiet`.
        """
        outcome = self._native.outcome()
        if outcome is None:
            raise InvalidState(
                "the pull is still running", operation="result", peer=self._peer_name, hint="Use wait() or await it"
            )
        return outcome

    def wait(self, timeout: float | None = None) -> PullResult:
        """Wait for the end, without the GIL, and return `result()`.

        Args:
            timeout: Seconds; None waits as long as the pull's own timeout allows.

        Raises:
            WaitTimeout: `timeout` passed; the pull goes on.
            PullError: It failed.
        """
        outcome = self._native.outcome()
        if outcome is not None:
            return outcome
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while not self._native.wait(min(SLICE, max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                raise WaitTimeout(
                    f"the pull is still running after {timeout} s",
                    operation="wait",
                    peer=self._peer_name,
                    hint="Wait again, or cancel() it",
                )
        return self.result()

    def cancel(self) -> None:
        """Give up: `result()` raises PullCancelled at once; the destination is free when `quiet`. No-op when done."""
        self._native.cancel()

    def __await__(self) -> Generator[object, None, PullResult]:
        """Wait in an asyncio loop. Cancelling the awaiting task leaves the pull running."""
        if not self._native.done():
            yield from self._readable().__await__()
        return self.result()

    async def _readable(self) -> None:
        import asyncio  # noqa: PLC0415 (whoever awaits has it; to import it takes a tenth of what this package does)

        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        # A descriptor of its own per awaiter: a loop knows one callback per descriptor, and ours may be awaited twice.
        descriptor = os.dup(self._native.fileno())
        try:
            loop.add_reader(descriptor, _finish, ended)
            try:
                await ended
            finally:
                loop.remove_reader(descriptor)
        finally:
            os.close(descriptor)

    def __repr__(self) -> str:
        """State and peer, for logs."""
        state = "done" if self.done else "running"
        return f"<Pull from {self._peer_name}: {state}>"


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
