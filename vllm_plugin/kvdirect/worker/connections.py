# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Connections of a worker to the engines it reads from: made in the background, kept, dropped when dead."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from kvdirect.handshake.client import ask, mismatch
from kvdirect.hosts import endpoint
from kvdirect.log import logger
from kvtransfer.errors import LeaseExpired

if TYPE_CHECKING:
    import kvtransfer
    from kvdirect.config import Settings
    from kvdirect.handshake.messages import Hello
    from kvdirect.metadata import OwnerAddress

# Handshakes at a time; each only waits.
_DIALLERS = 4


class Connections:
    """One peer for each owner, shared by all its requests."""

    def __init__(self, engine: kvtransfer.Engine, settings: Settings, hello: Hello) -> None:
        """Start without connections. `hello` says who we are, and which rank of every owner we read from: our own."""
        self._engine = engine
        self._settings = settings
        self._hello = hello
        self._connections: dict[OwnerAddress, Future[kvtransfer.Peer]] = {}
        self._diallers = ThreadPoolExecutor(_DIALLERS, thread_name_prefix="kvdirect-dial")

    @property
    def rank(self) -> int:
        """Of this worker, and of the owners' workers that it reads from."""
        return self._hello.rank

    def to(self, owner: OwnerAddress) -> Future[kvtransfer.Peer]:
        """The connection to `owner`, which may still be in the making or have failed.

        Dead and failed ones are replaced. An engine that was restarted is another owner, with a connection of its own.
        """
        known = self._connections.get(owner)
        if known is not None and not _useless(known):
            return known
        for other in [o for o, connection in self._connections.items() if _useless(connection)]:
            self._close(self._connections.pop(other))
        fresh = self._diallers.submit(self._connect, owner)
        self._connections[owner] = fresh
        return fresh

    def close(self) -> None:
        """Close all connections; what they still carry fails."""
        for connection in self._connections.values():
            if (peer := standing(connection)) is not None:
                peer.close()
        self._connections.clear()
        self._diallers.shutdown(wait=False, cancel_futures=True)

    def _close(self, connection: Future[kvtransfer.Peer]) -> None:
        # It waits until nothing can land any more, so not in this thread.
        if (peer := standing(connection)) is not None:
            self._diallers.submit(peer.close)

    def _connect(self, owner: OwnerAddress) -> kvtransfer.Peer:
        """Shake hands, compare, connect; raises what is wrong."""
        deadline = time.monotonic() + self._settings.handshake_timeout
        peer_name = endpoint(owner.host, owner.port)
        welcome = ask(owner.host, owner.port, self._hello, timeout=self._settings.handshake_timeout)
        if welcome.engine_id != owner.engine_id:
            raise mismatch(peer_name, "engine_id", welcome.engine_id, owner.engine_id)
        if welcome.incarnation != owner.incarnation:
            raise LeaseExpired(
                f"the owner was restarted: it is {welcome.incarnation:016x} now and the lease is of "
                f"{owner.incarnation:016x}",
                operation="handshake",
                peer=peer_name,
            )
        peer = self._engine.connect(
            welcome.descriptor,
            require_lane=self._settings.require_lane or None,
            timeout=max(0.1, deadline - time.monotonic()),
        )
        logger.info("reading from %s over lane %s (%s)", peer_name, peer.lane_summary, peer.plan_summary)
        return peer


def standing(connection: Future[kvtransfer.Peer]) -> kvtransfer.Peer | None:
    """The peer of a connection that was made, dead or alive; None: it is in the making, or failed."""
    if not connection.done() or connection.cancelled() or connection.exception() is not None:
        return None
    return connection.result()


def _useless(connection: Future[kvtransfer.Peer]) -> bool:
    peer = standing(connection)
    return connection.done() and (peer is None or not peer.alive)
