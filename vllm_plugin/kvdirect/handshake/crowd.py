# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The connections to the handshake port, never more than a cap: of whoever has most, the oldest makes room.

Whoever comes from one address is one party, so that its excess costs its own connections before another's.
"""

from __future__ import annotations

import itertools
import resource
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .connection import Connection

MOST_CONNECTIONS = 256
# Of the descriptors that the process may have: the engine needs them for other things.
SHARE_OF_DESCRIPTORS = 1 / 8


def most_connections() -> int:
    """How many connections this process holds at once."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(1, min(MOST_CONNECTIONS, int(soft * SHARE_OF_DESCRIPTORS)))


class Queue:
    """Connections by party, each party's in the order in which they go."""

    def __init__(self) -> None:
        self._parties: dict[str, dict[Connection, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._parties.values()))

    def __iter__(self) -> Iterator[Connection]:
        return itertools.chain.from_iterable(self._parties.values())

    def append(self, connection: Connection) -> None:
        """Put it behind all others of its party."""
        self._parties.setdefault(connection.party, {})[connection] = None

    def discard(self, connection: Connection) -> None:
        """Take it out, wherever it is."""
        party = self._parties.get(connection.party, {})
        if connection in party:
            del party[connection]
            if not party:
                del self._parties[connection.party]

    def first(self) -> Connection | None:
        """Who goes next: the first of the largest party."""
        largest: dict[Connection, None] = max(self._parties.values(), key=len, default={})
        return next(iter(largest), None)


def in_turns(connections: Iterable[Connection], most: int) -> Iterator[Connection]:
    """At most so many of them, one of each party after the other."""
    parties: dict[str, list[Connection]] = {}
    for connection in connections:
        parties.setdefault(connection.party, []).append(connection)
    rounds = itertools.zip_longest(*parties.values())
    return itertools.islice((one for several in rounds for one in several if one is not None), most)


class Crowd:
    """All connections. Strangers, who have not shown yet that they are to be answered, make room before the others."""

    def __init__(self, most: int) -> None:
        """Hold `most` connections at once."""
        self._most = most
        self._strangers = Queue()  # the first to come first
        self._introduced = Queue()  # whoever took in nothing for longest first

    def __len__(self) -> int:
        return len(self._strangers) + len(self._introduced)

    def __iter__(self) -> Iterator[Connection]:
        return itertools.chain(self._strangers, self._introduced)

    def add(self, connection: Connection) -> None:
        """A connection that has said nothing yet; there is room for it."""
        self._strangers.append(connection)

    def introduced(self, connection: Connection) -> None:
        """Its hello is complete, and it took in more of its answer just now."""
        self.discard(connection)
        self._introduced.append(connection)

    def discard(self, connection: Connection) -> None:
        """It has ended."""
        self._strangers.discard(connection)
        self._introduced.discard(connection)

    def in_the_way(self) -> Connection | None:
        """Who makes room for one more; None: there is room."""
        return (self._strangers.first() or self._introduced.first()) if len(self) >= self._most else None

    def oldest_stranger(self) -> Connection | None:
        """Who goes where the process has no descriptor left."""
        return self._strangers.first()

    def late(self, now: float) -> list[Connection]:
        """Those whose time is up."""
        return [connection for connection in self if connection.deadline <= now]
