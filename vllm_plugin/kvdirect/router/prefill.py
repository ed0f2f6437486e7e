# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The first half of a request's way: a prefill instance computes the prompt's cache and keeps it for a reader."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .bodies import (
    Body,
    RawHeaders,
    encode,
    parse_object,
    prefill_request,
    reason_to_skip_prefill,
    returned_headers,
)
from .client import Answer
from .upstream import BrokenError, LateError, UnreachableError, Upstream

if TYPE_CHECKING:
    from .config import ProxyConfig
    from .instances import Instance, Pool
    from .metrics import RouterMetrics

_log = logging.getLogger("kvdirect.proxy")


@dataclass(slots=True)
class PrefillResult:
    """What decode is told about the prompt's cache.

    Attributes:
        params: kv_transfer_params of the prefill instance; None: decode computes the prompt itself.
        owner: The prefill instance, which may not stop until `close` is called.
    """

    params: Body | None = None
    owner: Instance | None = None

    def close(self) -> None:
        """The cache was read, or will not be; may be called again."""
        if self.owner is not None:
            self.owner.release_cache()
            self.owner = None


class _NotPrefilledError(Exception):
    """No prefill instance's cache can be used for this request; `outcome` says what it counts as."""

    def __init__(self, outcome: str, why: str) -> None:
        super().__init__(why)
        self.outcome = outcome


class Prefiller:
    """Asks prefill instances."""

    def __init__(self, config: ProxyConfig, pool: Pool, upstream: Upstream, metrics: RouterMetrics) -> None:
        self._config = config
        self._pool = pool
        self._upstream = upstream
        self._metrics = metrics

    async def hand_over(self, path: str, body: Body, headers: RawHeaders, request_id: str) -> PrefillResult | Answer:
        """Have a prompt prefilled, or say that decode must do it; counts which.

        Returns:
            The handover, to be closed; or the prefill instance's 4xx answer, for the client.
        """
        try:
            result = await self._ask(path, body, headers, request_id)
        except _NotPrefilledError as error:
            self._metrics.count("prefills", error.outcome)
            level = logging.INFO if error.outcome == "local_request" else logging.WARNING
            _log.log(level, "request %s: not prefilled apart, the decode instance does it: %s", request_id, error)
            return PrefillResult()
        self._metrics.count("prefills", "refused" if isinstance(result, Answer) else "disaggregated")
        return result

    async def _ask(self, path: str, body: Body, headers: RawHeaders, request_id: str) -> PrefillResult | Answer:
        skip = reason_to_skip_prefill(body)
        if skip is not None:
            raise _NotPrefilledError("local_request", skip)
        content = encode(prefill_request(body))
        refused = ""
        for _ in range(len(self._pool)):  # each one that refuses the connection is taken out
            instance = self._pool.pick()
            if instance is None:
                break
            try:
                with instance.held():
                    return await self._ask_one(instance, path, headers, content, request_id)
            except UnreachableError as error:
                refused = str(error)
        if refused:
            raise _NotPrefilledError("local_unreachable", refused)
        raise _NotPrefilledError("local_no_prefill", f"no prefill instance can take it ({self._pool.why_none()})")

    async def _ask_one(
        self, instance: Instance, path: str, headers: RawHeaders, content: bytes, request_id: str
    ) -> PrefillResult | Answer:
        limit = self._config.prefill_timeout
        started = time.monotonic()
        try:
            async with asyncio.timeout(limit):
                reply = await self._upstream.ask(instance, "POST", path, headers, content, seconds=limit)
                try:
                    answer = await reply.whole()
                finally:
                    await reply.aclose()
        except (TimeoutError, LateError):
            text = f"{instance}: no answer within {limit} s (--prefill-timeout)"
            raise _NotPrefilledError("local_timeout", text) from None
        except BrokenError as error:
            raise _NotPrefilledError("local_broken", str(error)) from error
        if 400 <= reply.status < 500:
            return Answer(reply.status, returned_headers(reply.headers, request_id), answer)
        params = self._params(instance, reply.status, answer)
        self._metrics.prefilled(time.monotonic() - started)
        instance.keep_cache()
        return PrefillResult(params, instance)

    def _params(self, instance: Instance, status: int, answer: bytes) -> Body:
        if not 200 <= status < 300:
            instance.failures += 1
            raise _NotPrefilledError("local_failed", f"{instance}: answered {status}")
        try:
            params = parse_object(answer).get("kv_transfer_params")
            if params and isinstance(params, dict):
                encode(params)
                return params
        except ValueError as error:
            raise _NotPrefilledError("local_failed", f"{instance}: its answer cannot be read: {error}") from error
        raise _NotPrefilledError(
            "local_no_params",
            f"{instance}: no kv_transfer_params in its answer; was it started with a KV connector, as a producer?",
        )
