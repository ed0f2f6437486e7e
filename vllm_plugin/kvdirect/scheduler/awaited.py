# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Tickets that are not there yet: a reader asks the owner, from a thread of its own, what a claim has come to.

One thread for each owner asks after all of its claims at once, so that a hundred requests that wait cost what one does.
The owner answers once it has something new to say: there is one question on the way to it, and it costs nothing.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from kvdirect.handshake.exchange import Breakable, BrokenOffError
from kvdirect.handshake.messages import MAX_CLAIMS, NONE, RUNNING, UNKNOWN, digest
from kvdirect.transfer_params import SO_FAR_KEY
from kvtransfer.errors import KVTransferError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Where = tuple[str, int]
    Ask = Callable[[str, int, Sequence[str], bytes, Breakable], tuple[bytes | int, ...]]

# Seconds between two questions to one owner: of many prefills that end at once it is asked once. Where more claims wait
# than find room in a question, which are asked after in turns, those turns take so long.
PAUSE, TURN = 0.002, 0.02
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
    said: bytes | int | None = None  # by its owner, the last time


@dataclass(eq=False, slots=True)
class _Owner:
    """The claims of one owner, and the question after them that is on its way."""

    claims: dict[str, _Claim] = field(default_factory=dict)
    asked: bool = False  # a thread does
    question: Breakable = field(default_factory=Breakable)
    held: bool = False  # the question waits for news, and may be broken off

    def open(self) -> list[str]:
        """Claims of which there is more to come."""
        return [claim for claim, one in self.claims.items() if _is_open(one.answer)]

    def known(self, claims: Sequence[str]) -> bytes:
        """What stands for all that it said of these; nothing where one of them is new."""
        said = [self.claims[claim].said for claim in claims]
        return b"" if None in said else digest([one for one in said if one is not None])

    def ask_anew(self) -> None:
        """Its claims are others now. A question that does not wait is let through, or there might be no answer ever."""
        if self.held:
            self.question.break_off()


@dataclass(eq=False, slots=True)
class AwaitedTickets:
    """Claims whose tickets are wanted, until they are looked at or forgotten. Any thread."""

    _ask: Ask
    _streamed: bool = False  # tickets of prefills that run still are wanted, too
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _owners: dict[Where, _Owner] = field(default_factory=dict)
    _news: threading.Event = field(default_factory=threading.Event)

    def want(self, where: Where, claim: str) -> None:
        """Find out what a claim comes to at the owner with this host and port."""
        now = time.monotonic()
        with self._lock:
            owner = self._owners.setdefault(where, _Owner())
            wanted = owner.claims.setdefault(claim, _Claim(now, now))
            if owner.asked:
                owner.ask_anew()
                return
            if sum(one.asked for one in self._owners.values()) >= OWNERS:
                wanted.answer = f"{OWNERS} other owners are asked already"
                return
            owner.asked = True
        threading.Thread(target=self._serve, args=(where, owner), name="kvdirect-awaits", daemon=True).start()

    def look(self, where: Where, claim: str) -> dict[str, Any] | str | None:
        """The ticket; why there is none; or None while that is not known. One of a prefill that runs is renewed."""
        with self._lock:
            owner = self._owners.get(where)
            wanted = None if owner is None else owner.claims.get(claim)
            return "nobody wants it" if wanted is None else wanted.answer

    def wait(self, seconds: float) -> None:
        """Until one of the answers is another one than before, or so long."""
        self._news.wait(seconds)
        self._news.clear()

    def forget(self, where: Where, claim: str) -> None:
        """It is not wanted any more."""
        with self._lock:
            owner = self._owners.get(where)
            if owner is not None:
                owner.claims.pop(claim, None)
                if not owner.claims:
                    del self._owners[where]
                    owner.ask_anew()  # nothing any more: its thread ends

    def _serve(self, where: Where, owner: _Owner) -> None:
        while True:
            with self._lock:
                wanted = owner.open()
                some = wanted[:MAX_CLAIMS]
                if not some:
                    owner.asked = False
                    return
                unlike = owner.known(some) if some == wanted else b""
                owner.held = bool(unlike)
                owner.question.begin()
            try:
                answers: Sequence[bytes | int | str] = self._ask(*where, some, unlike, owner.question)
            except BrokenOffError:
                continue
            except KVTransferError as error:
                answers = [f"its owner was asked in vain: {error}"] * len(some)
            with self._lock:
                owner.held = False
                for claim, answer in zip(some, answers, strict=True):
                    if (one := owner.claims.pop(claim, None)) is not None:
                        owner.claims[claim] = one  # behind those that were not asked after
                        before = one.answer
                        self._settle(one, answer)
                        if one.answer != before:
                            self._news.set()
            time.sleep(PAUSE if some == wanted else TURN)

    def _settle(self, claim: _Claim, answer: bytes | int | str) -> None:
        now = time.monotonic()
        claim.said = None if isinstance(answer, str) else answer
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
