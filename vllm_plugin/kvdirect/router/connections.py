# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""How many connections the router has, and which of them make room for others."""

from __future__ import annotations

from typing import Protocol


class Waiting(Protocol):
    """A connection that can be closed while it waits for a request."""

    def give_way(self) -> None:
        """Close."""


class Connections:
    """All connections of clients: those that were never served, those that were and wait, those being served.

    At the limit a new one takes the place of the one that has waited longest: strangers who only connect keep nobody
    out, and clients whose connections are at rest lose them only when no stranger has one.

    Attributes:
        refused: Requests and connections that were turned away before the application saw them.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.refused = 0
        self._strangers: dict[Waiting, None] = {}
        self._resting: dict[Waiting, None] = {}
        self._served: set[Waiting] = set()

    def __len__(self) -> int:
        return len(self._strangers) + len(self._resting) + len(self._served)

    def admit(self, connection: Waiting) -> bool:
        """Count a new connection, if there is room or some can be made."""
        if len(self) >= self.limit:
            longest = next(iter(self._strangers or self._resting), None)
            if longest is None:
                return False
            self.forget(longest)
            self.refused += 1
            longest.give_way()
        self._strangers[connection] = None
        return True

    def serve(self, connection: Waiting) -> None:
        """Its request has come."""
        if self._known(connection):
            self.forget(connection)
            self._served.add(connection)

    def wait(self, connection: Waiting) -> None:
        """Its request was answered."""
        if self._known(connection):
            self.forget(connection)
            self._resting[connection] = None

    def forget(self, connection: Waiting) -> None:
        """It is closed, or about to be."""
        self._strangers.pop(connection, None)
        self._resting.pop(connection, None)
        self._served.discard(connection)

    def _known(self, connection: Waiting) -> bool:
        return connection in self._strangers or connection in self._resting or connection in self._served
