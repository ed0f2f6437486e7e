# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The router's side towards an instance: send a request, and name exactly how it failed.

What may be done after a failure depends on how far the request got, so there is one exception for each case.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import httpx

from .events import EventCutter, EventsTooLongError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .bodies import RawHeaders
    from .config import ProxyConfig
    from .instances import Instance

# Shorter than the 5 s after which vLLM's server closes an idle connection: one closed under a request would fail it.
_KEEPALIVE_SECONDS = 2.0


class UpstreamError(Exception):
    """An instance did not answer; the message names it and what happened."""

    def __init__(self, instance: Instance, text: str) -> None:
        super().__init__(f"{instance} {text}")


class UnreachableError(UpstreamError):
    """The connection was refused or not made in time: the instance has seen nothing of the request."""


class BrokenError(UpstreamError):
    """The connection broke after the request had left, or the engine gave it up: it may have worked on it."""


class LateError(UpstreamError):
    """The next byte did not come in time; the request was cancelled there."""


def describe_failure(error: BaseException) -> str:
    """Name a transport failure; httpx leaves the text of some empty."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def new_client() -> httpx.AsyncClient:
    """A client that queues nothing and that the environment's proxy settings do not send elsewhere."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=_KEEPALIVE_SECONDS)
    return httpx.AsyncClient(limits=limits, trust_env=False, verify=ssl.create_default_context())


class Reply:
    """An instance's answer whose first byte has come."""

    def __init__(
        self,
        instance: Instance,
        response: httpx.Response,
        first: bytes,
        rest: AsyncIterator[bytes],
        config: ProxyConfig,
    ) -> None:
        self.instance = instance
        self.status = response.status_code
        self.headers: RawHeaders = list(response.headers.raw)
        self.streamed = is_stream(response)
        self.first = first
        self._response = response
        self._rest = rest
        self._idle = config.idle_timeout
        self._limit = config.max_answer_bytes

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body in parts as they come, the first one included.

        Raises:
            BrokenError: It ended too early.
            LateError: The next part took too long.
        """
        chunk = self.first
        while chunk:
            yield chunk
            try:
                async with asyncio.timeout(self._idle):
                    chunk = await anext(self._rest, b"")
            except TimeoutError:
                self.instance.record_failure()
                raise LateError(self.instance, f"sent nothing for {self._idle} s (--idle-timeout)") from None
            except httpx.RequestError as error:
                raise broken(self.instance, error) from error

    async def whole(self) -> bytes:
        """All of the body, after which the connection is let go; raises as `chunks` does, also where it is too long."""
        body = bytearray()
        try:
            async for chunk in self.chunks():
                body += chunk
                if len(body) > self._limit:
                    raise broken(self.instance, f"its answer has more than {self._limit} bytes (--max-answer-bytes)")
            return bytes(body)
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Let go of the connection; what still runs on the instance is cancelled."""
        await self._response.aclose()


def broken(instance: Instance, how: BaseException | str) -> BrokenError:
    """The error for an instance that broke off; it is checked at once, for it may have died."""
    instance.record_failure(suspect=True)
    text = how if isinstance(how, str) else describe_failure(how)
    return BrokenError(instance, f"broke off: {text}; see its log")


class Upstream:
    """Sends requests to instances; `client` is set while the application runs."""

    def __init__(self, config: ProxyConfig) -> None:
        self._config = config
        self.client: httpx.AsyncClient | None = None

    async def ask(
        self, instance: Instance, method: str, path: str, headers: RawHeaders, content: bytes | None, *, seconds: float
    ) -> Reply:
        """Send a request and return with the first byte of the answer's body; close the reply when done.

        Args:
            instance: Whom to ask; one that refuses the connection is taken out at once.
            method: HTTP method.
            path: Path after the base URL.
            headers: Raw headers, as `forwarded_headers` makes them.
            content: The body.
            seconds: Time until the first byte.

        Raises:
            UnreachableError: No connection.
            BrokenError: It broke before a byte of the body came.
            LateError: No byte of the body in time.
        """
        if self.client is None:
            raise RuntimeError("the application's lifespan is not running: serve it with an ASGI server that runs it")
        timeout = httpx.Timeout(
            connect=self._config.connect_timeout, read=None, write=self._config.idle_timeout, pool=None
        )
        request = self.client.build_request(
            method, f"{instance.url}{path}", headers=headers, content=content, timeout=timeout
        )
        try:
            async with asyncio.timeout(seconds):
                response = await self.client.send(request, stream=True)
                try:
                    rest = self._parts(instance, response)
                    first = await anext(rest, b"")
                except BaseException:
                    await response.aclose()
                    raise
        except TimeoutError:
            instance.record_failure()
            raise LateError(instance, f"gave no answer within {seconds} s") from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            text = describe_failure(error)
            instance.record_failure()
            instance.failed(text)
            raise UnreachableError(instance, f"cannot be reached: {text}") from error
        except httpx.RequestError as error:
            raise broken(instance, error) from error
        if not 200 <= response.status_code <= 599:
            await response.aclose()
            raise broken(instance, f"it answered with status {response.status_code}, which is none of HTTP's")
        return Reply(instance, response, first, rest, self._config)

    async def _parts(self, instance: Instance, response: httpx.Response) -> AsyncIterator[bytes]:
        """The body as it comes; of an event stream, whole events."""
        if not is_stream(response):
            async for part in response.aiter_raw():
                yield part
            return
        cutter = EventCutter(self._config.max_answer_bytes)
        try:
            async for part in response.aiter_raw():
                if events := cutter.feed(part):
                    yield events
        except EventsTooLongError as error:
            raise broken(instance, f"{error} (--max-answer-bytes)") from None
        if rest := cutter.end():
            yield rest


def is_stream(response: httpx.Response) -> bool:
    """Whether the answer is an event stream."""
    return str(response.headers.get("content-type", "")).startswith("text/event-stream")
