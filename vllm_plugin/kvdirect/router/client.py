# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The client's side of one exchange: read its body within bounds, notice when it leaves, answer it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

from starlette.requests import ClientDisconnect

from .apis import COMPLETIONS, Api
from .bodies import PassedBody, RawHeaders, RequestBody, RouterError
from .body_budget import too_many_bytes
from .journal import SILENT, Journal
from .outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

    from starlette.requests import Request
    from starlette.types import Message, Receive, Send

    from .body_budget import BodyShare

T = TypeVar("T")

# An oversize body is read and dropped for this long, in seconds: closing with unread bytes would reset the connection
# and the client would never see why.
_DISCARD_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer: status, raw headers without content-length, body."""

    status: int
    headers: RawHeaders
    body: bytes


@dataclass(frozen=True, slots=True)
class Call:
    """A request that was taken: what instances are asked, and where their answer goes."""

    path: str
    headers: RawHeaders
    body: RequestBody | PassedBody
    response: ClientResponse
    started: float
    method: str = "POST"
    journal: Journal = SILENT

    @property
    def api(self) -> Api:
        """Whose form its answer has."""
        return self.response.api

    @property
    def request_id(self) -> str:
        """The client's, or one that was made."""
        return self.response.request_id


async def read_body(request: Request, share: BodyShare, *, limit: int, seconds: float) -> bytes:
    """Read the request's body.

    Args:
        request: The request; its body must not have been read.
        share: What its bytes are counted in.
        limit: Bytes accepted.
        seconds: Time the client gets.

    Raises:
        RouterError: 413 too large, 408 too slow, 429 if others need the room.
        starlette.requests.ClientDisconnect: The client left.
    """
    declared = request.headers.get("content-length", "")
    received = bytearray()
    too_large = declared.isdecimal() and int(declared) > limit
    now = asyncio.get_running_loop().time
    try:
        async with asyncio.timeout(_DISCARD_SECONDS if too_large else seconds) as deadline:
            share.on_expelled = lambda: None if deadline.expired() else deadline.reschedule(now())
            async for chunk in request.stream():
                if too_large:
                    continue
                await share.add(len(chunk))
                received += chunk
                if len(received) > limit:
                    too_large = True
                    received.clear()
                    deadline.reschedule(now() + _DISCARD_SECONDS)
    except TimeoutError:
        if share.expelled:
            raise too_many_bytes(share.limit) from None
        if not too_large:
            message = f"the request's body did not arrive within {seconds} s; send it again"
            raise RouterError(408, message, outcome=Outcome.REFUSED, close=True) from None
    finally:
        share.arrived()
    if too_large:
        message = f"the request's body is larger than {limit} bytes; send less, or start the router with a larger limit"
        raise RouterError(413, f"{message} (--max-body-bytes)", outcome=Outcome.REFUSED, close=True)
    return bytes(received)


async def discard_body(request: Request) -> None:
    """Read what comes of the body and drop it, before an answer that closes the connection."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_SECONDS):
            async for _ in request.stream():
                pass


async def until_gone(receive: Receive) -> None:
    """Return when the client has left; its body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Stop:
    """Told once to all that runs; asyncio.Event would need a task of each that waits for it."""

    def __init__(self) -> None:
        self._told = False
        self._cuts: set[_Cut] = set()

    def is_set(self) -> bool:
        """Whether it was told."""
        return self._told

    def set(self) -> None:
        """Tell it."""
        self._told = True
        for cut in tuple(self._cuts):
            cut.now()

    def add(self, cut: _Cut) -> None:
        """Let it be told, at once if it was already."""
        self._cuts.add(cut)
        if self._told:
            cut.now()

    def remove(self, cut: _Cut) -> None:
        """It need not be told any more."""
        self._cuts.discard(cut)


class _Cut:
    """A cancellation of what the current task does, which is told from others'."""

    def __init__(self) -> None:
        self.made = False
        self.over = False
        self._task = cast("asyncio.Task[object]", asyncio.current_task())
        self._before = self._task.cancelling()

    def now(self, watcher: asyncio.Task[None] | None = None) -> None:
        """Make it, once, unless the work is done; `watcher` is what has seen that it must be."""
        if not self.made and not self.over and not (watcher is not None and watcher.cancelled()):
            self.made = True
            self._task.cancel()

    def explains(self) -> bool:
        """Whether the task was cancelled by this and by nothing else; it counts no more."""
        return self.made and self._task.uncancel() <= self._before


async def beside(
    leg: asyncio.Task[bool] | None, work: Coroutine[object, object, T], response: ClientResponse
) -> T | None:
    """Run `work` while `leg` runs, too.

    Returns:
        What `work` returned; None if it was cancelled because the leg came to False before the client had anything.
    """
    if leg is None:
        return await work
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task, leg}, return_when=asyncio.FIRST_COMPLETED)
        if task.done() or response.begun or (not leg.cancelled() and leg.exception() is None and leg.result()):
            return await task
        return None
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def run_until(
    work: Coroutine[object, object, T], stop: Stop, end: Coroutine[object, object, None] | None = None
) -> T | None:
    """Run `work` and cancel it, which closes what it has open upstream, when `stop` is told or `end` returns.

    Returns:
        What `work` returned, or None if it was cancelled.
    """
    cut = _Cut()
    watcher = None if end is None else asyncio.create_task(end)
    try:
        if watcher is not None:
            watcher.add_done_callback(cut.now)
        stop.add(cut)
        result: T | None = await work
    except asyncio.CancelledError:
        if not cut.explains():
            raise
        result = None
    else:
        cut.explains()  # it came too late
    finally:
        cut.over = True
        stop.remove(cut)
        if watcher is not None:
            watcher.cancel()
    return result


class _Rest:
    """What a coroutine has left to do, to be awaited; `pending` is what it waits for."""

    def __init__(self, coroutine: Coroutine[object, object, None], pending: object) -> None:
        self._coroutine = coroutine
        self._pending = pending

    def __await__(self) -> Generator[object, object, None]:
        while True:
            try:
                sent = yield self._pending
            except BaseException as error:  # noqa: BLE001 (it is the coroutine's)
                step = partial(self._coroutine.throw, error)
            else:
                step = partial(self._coroutine.send, sent)
            try:
                self._pending = step()
            except StopIteration:
                return


class ClientResponse:
    """The answer to one request: knows how far it has got, and so how an error can still be told."""

    def __init__(self, send: Send, request_id: str, *, patience: float, api: Api = COMPLETIONS) -> None:
        """Prepare to answer; a client that takes nothing for `patience` seconds is treated as gone."""
        self.request_id = request_id
        self.api = api
        self._first = self._last = b""  # parts of a stream
        self.begun = False
        self.status = 0  # of the answer, once it has begun
        self._send = send
        self._patience = patience
        self._streaming = False

    async def whole(self, answer: Answer) -> None:
        """Send a whole answer."""
        length = (b"content-length", str(len(answer.body)).encode("ascii"))
        await self._begin(answer.status, [*answer.headers, length])
        await self.chunk(answer.body, more=False)

    async def begin_stream(self, status: int, headers: RawHeaders) -> None:
        """Begin an event stream."""
        await self._begin(status, headers)
        self._streaming = True

    async def chunk(self, body: bytes, *, more: bool = True) -> None:
        """Pass on a part of an event stream, or of an answer; without `more`, its last."""
        self._streaming = self._streaming and more
        self._first, self._last = self._first or body, body
        await self._put({"type": "http.response.body", "body": body, "more_body": more})

    async def _put(self, message: Message) -> None:
        """Send a part of the answer to a client that may be slow, or take nothing of what it was sent before."""
        sending = cast("Coroutine[object, object, None]", self._send(message))
        try:
            pending = sending.send(None)  # mostly it need not wait, and no timer is started for it
        except StopIteration:
            return
        try:
            async with asyncio.timeout(self._patience):
                await _Rest(sending, pending)
        except TimeoutError:
            raise ClientDisconnect from None

    async def error(self, error: RouterError) -> None:
        """Tell the client: as the answer, or in a stream as an event, after closing the one that may be half sent."""
        if self._streaming:
            event = self.api.last_event(error.status, error.message, self._first, self._last)
            await self.chunk(b"\n\n" + event, more=False)
        elif not self.begun:
            await self.whole(error_answer(error, self.request_id, self.api))

    async def _begin(self, status: int, headers: RawHeaders) -> None:
        self.begun = True
        self.status = status
        await self._put({"type": "http.response.start", "status": status, "headers": headers})


def error_answer(error: RouterError, request_id: str, api: Api = COMPLETIONS) -> Answer:
    """The answer that tells the client of an error."""
    headers = [(b"content-type", b"application/json"), (b"x-request-id", request_id.encode("ascii"))]
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode("ascii")))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.close:
        headers.append((b"connection", b"close"))
    return Answer(error.status, headers, api.error(error.status, error.message))
