# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""How many bytes the bodies of all requests may have together."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from .bodies import RouterError
from .outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class BodyShare:
    """One request's part of the budget.

    Attributes:
        expelled: Set when others need its part and its body is still arriving: then it must not be read on.
        on_expelled: Called then.
    """

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self.size = 0
        self.expelled = False
        self.on_expelled: Callable[[], object] = lambda: None

    @property
    def limit(self) -> int:
        """Bytes of all shares."""
        return self._budget.limit

    def add(self, size: int) -> None:
        """Count bytes that have arrived.

        Raises:
            RouterError: 429; there is no room, and nobody's arrival began earlier.
        """
        self._budget.add(self, size)

    def arrived(self) -> None:
        """No more of the body is waited for: it keeps its room until its request has ended."""
        self._budget.arrived(self)


class BodyBudget:
    """Bytes of bodies; the one that has been arriving longest makes room for others.

    So clients that send slowly, or never send the last byte, hold what nobody else asks for.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._arriving: dict[BodyShare, None] = {}

    @contextmanager
    def share(self) -> Iterator[BodyShare]:
        """A request's part, given back at the end."""
        share = BodyShare(self)
        self._arriving[share] = None
        try:
            yield share
        finally:
            self._arriving.pop(share, None)
            self.held -= share.size
            share.size = 0

    def add(self, share: BodyShare, size: int) -> None:
        """See BodyShare."""
        while self.held + size > self.limit:
            longest = next(iter(self._arriving), share)
            if longest is share:
                raise too_many_bytes(self.limit)
            self._expel(longest)
        share.size += size
        self.held += size

    def arrived(self, share: BodyShare) -> None:
        """See BodyShare."""
        self._arriving.pop(share, None)

    def _expel(self, share: BodyShare) -> None:
        self._arriving.pop(share, None)
        self.held -= share.size
        share.size = 0
        share.expelled = True
        share.on_expelled()


def too_many_bytes(limit: int) -> RouterError:
    """The error for a body that finds no room, or has to make some."""
    text = f"the bodies of all requests have {limit} bytes, the router's limit (--max-bodies-bytes); try again later"
    return RouterError(429, text, outcome=Outcome.LIMITED, retry_after=1, close=True)
