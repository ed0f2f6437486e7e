# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What a worker tells of requests whose cache moves: spans, and lines of the request log.

Connections are made and pulls run in the workers, one of each a rank, so their spans are made here. A pull's span has
the times that the transfer engine measured: its end is seen a step later.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvdirect.hosts import endpoint
from kvdirect.log import logger
from kvdirect.request_log import RequestLog
from kvdirect.tracing import NANOSECONDS, Attribute, Spans

if TYPE_CHECKING:
    from concurrent.futures import Future

    from opentelemetry.trace import Span
    from vllm.config import VllmConfig

    import kvtransfer
    from kvdirect.config import Settings
    from kvdirect.metadata import Hold

    from .connections import Connection


@dataclass(eq=False, slots=True)
class WorkerJournal:
    """Tells nothing where neither is wanted."""

    _spans: Spans | None = None
    _reader: RequestLog | None = None
    _owner: RequestLog | None = None
    _rank: int = 0

    @classmethod
    def of(cls, vllm_config: VllmConfig, settings: Settings, rank: int) -> WorkerJournal:
        """A worker's."""
        spans = Spans.of(vllm_config)
        if not settings.log_requests:
            return cls(spans, _rank=rank)
        return cls(spans, RequestLog(logger, "reader"), RequestLog(logger, "owner"), rank)

    @property
    def silent(self) -> bool:
        """Whether nothing is told of pulls."""
        return self._spans is None and self._reader is None

    def connecting(self, hold: Hold, connection: Future[Connection]) -> None:
        """A request waits for this connection, unless it stands."""
        if self.silent or connection.done():
            return
        span = None
        if self._spans is not None and hold.trace:
            span = self._spans.start("kvdirect.connect", hold.trace, self._attributes(hold))
        connection.add_done_callback(functools.partial(self._connected, hold, span, time.monotonic()))

    def _connected(self, hold: Hold, span: Span | None, began: float, connection: Future[Connection]) -> None:
        """In the thread that made it."""
        error = "cancelled" if connection.cancelled() else str(connection.exception() or "")
        if span is not None and self._spans is not None:
            if error:
                self._spans.fail(span, error)
            span.end()
        if self._reader is not None:
            seconds = round(time.monotonic() - began, 6)
            outcome = error or "ok"
            owner = endpoint(hold.owner.host, hold.owner.port)
            self._reader.write(
                hold.request_id, "connects", owner=owner, rank=self._rank, seconds=seconds, outcome=outcome
            )

    def pulled(
        self, hold: Hold, began: int, result: kvtransfer.PullResult, *, blocks: int, tokens: int, reason: str
    ) -> None:
        """A pull is over.

        Args:
            hold: The request.
            began: Nanoseconds since the epoch; 0: it was not begun.
            result: Of the pull; nothing of one that failed.
            blocks: That it was to fill.
            tokens: That it was to bring.
            reason: Why it failed; empty: it did not.
        """
        told: dict[str, Attribute] = {
            "lane": result.lane,
            "bytes": result.bytes,
            "runs": result.runs,
            "blocks": blocks,
            "tokens": tokens,
        }
        if self._spans is not None and hold.trace and began:
            attributes = {f"kvdirect.{name}": value for name, value in told.items()} | self._attributes(hold)
            attributes["kvdirect.outcome"] = reason.partition(":")[0] or "ok"
            span = self._spans.start("kvdirect.pull", hold.trace, attributes, began)
            if reason:
                self._spans.fail(span, reason)
            span.end(time.time_ns() if reason else began + int(result.seconds * NANOSECONDS))
        if self._reader is not None:
            seconds, outcome = round(result.seconds, 6), reason or "ok"
            more = {**told, "rank": self._rank, "seconds": seconds, "outcome": outcome}
            self._reader.write(hold.request_id, "pulls", **more)

    def freed(self, request_id: str, reason: str) -> None:
        """A lease of a request that was kept has ended on this rank."""
        if self._owner is not None:
            self._owner.write(request_id, "has its lease ended", reason=reason, rank=self._rank)

    def _attributes(self, hold: Hold) -> dict[str, Attribute]:
        return {
            "kvdirect.request.id": hold.request_id,
            "kvdirect.owner": endpoint(hold.owner.host, hold.owner.port),
            "kvdirect.rank": self._rank,
        }
