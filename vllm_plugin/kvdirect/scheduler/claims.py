# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Tickets by the claim under which their prefill was asked for.

A router that sends both legs of a request at once cannot give the reader a ticket, since there is none yet; it gives
both sides a claim, 128 random bits, and the reader asks the owner what it came to.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from kvdirect.handshake.messages import MAX_ANSWER, NONE, RUNNING, UNKNOWN
from kvdirect.transfer_params import SO_FAR_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# Claims whose tickets are gone are remembered, so that nobody waits for them.
_REMEMBERED = 4096
ROOM = 1 << 20  # bytes of tickets in one answer, or one ticket; readers ask again for the rest


@dataclass(eq=False, slots=True)
class Claims:
    """What became of each claim. The scheduler's thread writes, the handshake's reads.

    Attributes:
        news: Called with a claim that has come to something else; and whether only readers that read along care.
    """

    news: Callable[[str, bool], object] = lambda *_: None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _open: dict[str, Mapping[str, Any] | None] = field(default_factory=dict)  # None: it waits
    _gone: dict[str, None] = field(default_factory=dict)

    def began(self, claim: str) -> None:
        """A prefill was asked for under it."""
        with self._lock:
            self._gone.pop(claim, None)
            self._open[claim] = None
        self.news(claim, False)

    def runs(self, claim: str, so_far: Mapping[str, Any] | None) -> None:
        """The prefill is being computed: what a reader may know of it, which reads along. None: it waits once more."""
        with self._lock:
            if claim not in self._open:
                return
            self._open[claim] = so_far
        self.news(claim, True)

    def came_to(self, claim: str, ticket: Mapping[str, Any]) -> None:
        """The prefill ended well; the ticket changes no more."""
        with self._lock:
            # A copy: what vLLM adds to a ticket behind this (remote_prefill_cached_tokens) is for its own front end.
            self._open[claim] = dict(ticket)
        self.news(claim, False)

    def gone(self, claim: str) -> None:
        """There is no ticket of it any more, or there will be none. No-op for one that was never there."""
        with self._lock:
            if claim not in self._open:
                return
            del self._open[claim]
            self._gone[claim] = None
            if len(self._gone) > _REMEMBERED:
                del self._gone[next(iter(self._gone))]
        self.news(claim, False)

    def answers(self, claims: Sequence[str], streamed: bool = False) -> tuple[bytes | int, ...]:
        """For each, its ticket as JSON, or why there is none; tickets that find no room are as if they ran still.

        With `streamed` also those of prefills that do run still.
        """
        used, found = 0, list[bytes | int]()
        with self._lock:
            known = [(claim in self._open, claim in self._gone, self._open.get(claim)) for claim in claims]
        for is_open, is_gone, ticket in known:
            answer: bytes | int = RUNNING if is_open else NONE if is_gone else UNKNOWN
            if ticket is not None and (streamed or SO_FAR_KEY not in ticket):
                encoded = msgspec.json.encode(ticket)
                if len(encoded) <= (ROOM - used if used else MAX_ANSWER // 2):
                    used, answer = used + len(encoded), encoded
            found.append(answer)
        return tuple(found)
