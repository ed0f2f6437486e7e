# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the scheduler process tells of requests whose cache moves: spans, and lines of the request log.

The load of a cache is one span, from the request's arrival until vLLM may go on with it. Its beginning and its end are
seen here alone, so it is made here, and the workers' spans become its children by the headers that go with each hold.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kvdirect.hosts import endpoint
from kvdirect.log import logger
from kvdirect.request_log import RequestLog
from kvdirect.tracing import Spans, TraceHeaders

if TYPE_CHECKING:
    from opentelemetry.trace import Span
    from vllm.config import VllmConfig
    from vllm.v1.request import Request

    from kvdirect.config import Settings
    from kvdirect.transfer_params import RemotePrefill


@dataclass(slots=True)
class _Load:
    """A request whose cache is elsewhere, until it is here or not wanted any more."""

    since: float
    given_up: bool = False
    span: Span | None = None
    waiting: Span | None = None  # for blocks


@dataclass(eq=False, slots=True)
class SchedulerJournal:
    """Tells nothing where neither is wanted. Keeps something for each request that the reader or owner knows, only."""

    _spans: Spans | None = None
    _reader: RequestLog | None = None
    _owner: RequestLog | None = None
    _loads: dict[str, _Load] = field(default_factory=dict)
    _kept: dict[str, _Load] = field(default_factory=dict)

    @classmethod
    def of(cls, vllm_config: VllmConfig, settings: Settings) -> SchedulerJournal:
        """An engine's."""
        spans = Spans.of(vllm_config)
        if not settings.log_requests:
            return cls(spans)
        return cls(spans, RequestLog(logger, "reader"), RequestLog(logger, "owner"))

    @property
    def _silent(self) -> bool:
        return self._spans is None and self._reader is None

    def asked(self, request: Request, remote: RemotePrefill) -> TraceHeaders:
        """A request came with a ticket: what the workers' spans are children of."""
        if self._silent:
            return {}
        load = self._loads[request.request_id] = _Load(time.monotonic())
        owner = endpoint(remote.host, remote.port)
        if self._reader is not None:
            more: dict[str, Any] = {"owner": owner, "owner_request_id": remote.request_id, "tokens": remote.num_tokens}
            self._reader.write(request.request_id, "has a ticket", **more)
        if self._spans is None:
            return {}
        attributes = {
            "kvdirect.request.id": request.request_id,
            "kvdirect.owner": owner,
            "kvdirect.owner.request.id": remote.request_id,
            "kvdirect.ticket.tokens": remote.num_tokens,
        }
        load.span = self._spans.start("kvdirect.load", _headers(request), attributes)
        load.waiting = self._spans.start("kvdirect.wait_for_blocks", load.span, {})
        return self._spans.headers(load.span)

    def allocated(self, request_id: str, tokens: int) -> None:
        """The request has blocks, and so many tokens are pulled into them."""
        load = self._loads.get(request_id)
        if load is None:
            return
        if load.waiting is not None:
            load.waiting.end()
            load.waiting = None
        if load.span is not None:
            load.span.set_attribute("kvdirect.tokens", tokens)
        if self._reader is not None:
            self._reader.write(request_id, "has blocks", tokens=tokens, seconds=_since(load))

    def gives_up(self, request_id: str) -> None:
        """The request was aborted; its pull is not over yet."""
        if (load := self._loads.get(request_id)) is not None:
            load.given_up = True

    def loaded(self, request_id: str, outcome: str) -> None:
        """The request's cache is here, or will not come; `outcome` is "ok" or says why."""
        load = self._loads.pop(request_id, None)
        if load is None:
            return
        if load.given_up:
            outcome = "aborted"
        if self._reader is not None:
            self._reader.write(request_id, "goes on", outcome=outcome, seconds=_since(load))
        if load.waiting is not None:
            load.waiting.end()
        if load.span is not None and self._spans is not None:
            load.span.set_attribute("kvdirect.outcome", outcome)
            if outcome == "failed":
                self._spans.fail(load.span, "the pull failed; its own span says why")
            load.span.end()

    def kept(self, request: Request, tokens: int) -> None:
        """A prefill is through, and its blocks stay for a reader."""
        if self._silent:
            return
        kept = self._kept[request.request_id] = _Load(time.monotonic())
        if self._owner is not None:
            self._owner.write(request.request_id, "is kept for a reader", tokens=tokens)
        if self._spans is not None:
            attributes = {"kvdirect.request.id": request.request_id, "kvdirect.tokens": tokens}
            kept.span = self._spans.start("kvdirect.keep", _headers(request), attributes)

    def freed(self, request_id: str) -> None:
        """Its blocks are free."""
        kept = self._kept.pop(request_id, None)
        if kept is None:
            return
        if self._owner is not None:
            self._owner.write(request_id, "has its blocks freed", seconds=_since(kept))
        if kept.span is not None:
            kept.span.end()


def _headers(request: Request) -> TraceHeaders | None:
    return getattr(request, "trace_headers", None)


def _since(load: _Load) -> float:
    return round(time.monotonic() - load.since, 6)
