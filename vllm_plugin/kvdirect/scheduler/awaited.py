# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Tickets that are not there yet: a reader asks the owner, from a thread of its own, what a claim has come to.

One thread for each owner asks after all of its claims at once, so that a hundred requests that wait cost what one does.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from kvdirect.handshake.messages import MAX_CLAIMS, NONE, RUNNING, UNKNOWN
from kvdirect.transfer_params import SO_FAR_KEY
from kvtransfer.errors import KVTransferError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Where = tuple[str, int]
    Ask = Callable[[str, int, Sequence[str]], tuple[bytes | int, ...]]

# Seconds between two questions to one owner: what a reader may learn too late. Of prefills that take longer it learns
# a twentieth of their time too late, and no more than so much: both sides have other work.
ASK_EVERY, ASK_AT_LEAST_EVERY = 0.02, 0.05
# Seconds for which an owner may not have heard of a claim: its leg of the request is on the way.
UNHEARD = 10.0
# Seconds for which a prefill may wait and run.
LONGEST = 600.0
# Owners that are asked at a time; each has a thread.
OWNERS = 32


@dataclass(slots=True)
class _Claim:
    since: float
    unheard_since: float
    answer: dict[str, Any] | str | None = None


@dataclass(eq=False, slots=True)
class AwaitedTickets:
    """Claims whose tickets are wanted, until they are looked at or forgotten. Any thread."""

    _ask: Ask
    _streamed: bool = False  # tickets of prefills that run still are wanted, too
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _claims: defaultdict[Where, dict[str, _Claim]] = field(default_factory=lambda: defaultdict(dict))
    _asking: set[Where] = field(default_factory=set)
    _news: threading.Event = field(default_factory=threading.Event)

    def want(self, where: Where, claim: str) -> None:
        """Find out what a claim comes to at the owner with this host and port."""
        now = time.monotonic()
        with self._lock:
            self._claims[where].setdefault(claim, _Claim(now, now))
            if where in self._asking:
                return
            if len(self._asking) >= OWNERS:
                self._claims[where][claim].answer = f"{OWNERS} other owners are asked already"
                return
            self._asking.add(where)
        threading.Thread(target=self._serve, args=(where,), name="kvdirect-awaits", daemon=True).start()

    def look(self, where: Where, claim: str) -> dict[str, Any] | str | None:
        """The ticket; why there is none; or None while that is not known. One of a prefill that runs is renewed."""
        with self._lock:
            wanted = self._claims.get(where, {}).get(claim)
            return "nobody wants it" if wanted is None else wanted.answer

    def wait(self, seconds: float) -> None:
        """Until one of the answers is another one than before, or so long."""
        self._news.wait(seconds)
        self._news.clear()

    def forget(self, where: Where, claim: str) -> None:
        """It is not wanted any more."""
        with self._lock:
            claims = self._claims.get(where, {})
            claims.pop(claim, None)
            if not claims:
                self._claims.pop(where, None)

    def _serve(self, where: Where) -> None:
        while True:
            with self._lock:
                wanted = [claim for claim, one in self._claims.get(where, {}).items() if _is_open(one.answer)]
                if not wanted:
                    self._asking.discard(where)
                    return
            some = wanted[:MAX_CLAIMS]
            try:
                answers: Sequence[bytes | int | str] = self._ask(*where, some)
            except KVTransferError as error:
                answers = [f"its owner was asked in vain: {error}"] * len(some)
            with self._lock:
                claims = self._claims.get(where, {})
                for claim, answer in zip(some, answers, strict=True):
                    if (one := claims.pop(claim, None)) is not None:
                        before = one.answer
                        self._settle(one, answer)
                        claims[claim] = one  # behind those that were not asked after
                        if one.answer != before:
                            self._news.set()
                youngest = max((one.since for one in claims.values()), default=0.0)
            waited = time.monotonic() - youngest
            time.sleep(min(max(ASK_EVERY, waited / 20), ASK_AT_LEAST_EVERY))

    def _settle(self, claim: _Claim, answer: bytes | int | str) -> None:
        now = time.monotonic()
        ticket = _ticket(answer) if isinstance(answer, bytes) else None
        if ticket is not None and (self._streamed or not _is_open(ticket)):
            claim.unheard_since, claim.answer = now, ticket
        elif isinstance(answer, str):
            claim.answer = answer
        elif answer == RUNNING or ticket is not None:
            claim.unheard_since = now
            if now - claim.since > LONGEST:
                claim.answer = f"its prefill has not ended after {LONGEST:g} s"
        elif answer == NONE:
            claim.answer = "its prefill left no ticket, or the ticket is gone"
        elif answer == UNKNOWN and now - claim.unheard_since > UNHEARD:
            claim.answer = f"its owner has not heard of it for {UNHEARD:g} s"


def _is_open(answer: dict[str, Any] | str | None) -> bool:
    """Whether there is more to come."""
    return answer is None or (isinstance(answer, dict) and answer.get(SO_FAR_KEY) is not None)


def _ticket(body: bytes) -> dict[str, Any] | str:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return f"its owner's ticket makes no sense: {error}"
