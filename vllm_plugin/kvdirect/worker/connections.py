# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Connections of a worker to the engines it reads from: made in the background, kept, dropped when dead."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvdirect.handshake.client import ask, mismatch
from kvdirect.hosts import endpoint
from kvdirect.log import logger
from kvtransfer.errors import LeaseExpired, PlanError

from .diallers import Diallers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    import kvtransfer
    from kvdirect.cache.shard import Shard
    from kvdirect.config import Settings
    from kvdirect.handshake.messages import Hello, Welcome
    from kvdirect.metadata import OwnerAddress

# Handshakes at a time; each only waits.
_DIALLERS = 4


@dataclass(frozen=True, slots=True)
class Connection:
    """One owner, with all its workers that concern us.

    Attributes:
        block_sizes: Per cache group of the owner, tokens in a block.
        kernel_blocks: Per cache group of the owner, blocks of its maps in a block.
        completes: For each of its workers, 1 if we tell it that a lease is needed no more, else 0.
    """

    peer: kvtransfer.ShardedPeer
    block_sizes: tuple[int, ...]
    kernel_blocks: tuple[int, ...]
    completes: tuple[int, ...]

    def positions(self, tables: Sequence[Sequence[int]], chosen: Sequence[bool]) -> int:
        """How many positions these block tables of the owner reach; with blocks smaller than ours, fewer than ours.

        `chosen`: by table whether it counts.
        """
        if len(tables) != len(self.block_sizes):
            raise PlanError(
                f"the ticket has block ids of {len(tables)} cache groups, the owner has {len(self.block_sizes)}",
                operation="pull",
            )
        reach = zip(chosen, tables, self.block_sizes, strict=True)
        return min(len(table) * size for taken, table, size in reach if taken)

    @property
    def alive(self) -> bool:
        """Whether it can still carry pulls."""
        return self.peer.alive


class Connections:
    """One connection for each owner, shared by all its requests."""

    def __init__(self, engine: kvtransfer.Engine, settings: Settings, hello: Hello, shard: Shard) -> None:
        """Start without connections. `hello` says who we are, `shard` which of our engine's workers."""
        self._engine = engine
        self._settings = settings
        self._keys = settings.keys()
        self._hello = hello
        self._shard = shard
        self._connections: dict[OwnerAddress, Future[Connection]] = {}
        self._diallers = Diallers(_DIALLERS)

    @property
    def rank(self) -> int:
        """Of this worker among those of its engine."""
        return self._shard.index

    def to(self, owner: OwnerAddress) -> Future[Connection]:
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
            if (made := standing(connection)) is not None:
                made.peer.close()
        self._connections.clear()
        self._diallers.shutdown(wait=False, cancel_futures=True)

    def _close(self, connection: Future[Connection]) -> None:
        # It waits until nothing can land any more, so not in this thread.
        if (made := standing(connection)) is not None:
            self._diallers.submit(made.peer.close)

    def _connect(self, owner: OwnerAddress) -> Connection:
        """Shake hands, compare, connect; raises what is wrong."""
        deadline = time.monotonic() + self._settings.handshake_timeout
        peer_name = endpoint(owner.host, owner.port)
        timeout, anybody = self._settings.handshake_timeout, self._settings.insecure_network
        welcome = ask(owner.host, owner.port, self._hello, timeout=timeout, keys=self._keys, anybody=anybody)
        if welcome.engine_id != owner.engine_id:
            raise mismatch(peer_name, "engine_id", welcome.engine_id, owner.engine_id)
        if welcome.incarnation != owner.incarnation:
            raise LeaseExpired(
                f"the owner was restarted: it is {welcome.incarnation:016x} now and the lease is of "
                f"{owner.incarnation:016x}",
                operation="handshake",
                peer=peer_name,
            )
        return self._open(welcome, peer_name, max(0.1, deadline - time.monotonic()))

    def _open(self, welcome: Welcome, name: str, timeout: float) -> Connection:
        """Connect to the workers that hold what we read, and to those that we complete.

        vLLM's scheduler hears of a pull's end when it has ended on all workers, and then its lease is completed: so one
        of ours is enough for each of the owner's, and all are told whoever reads them.
        """
        ours, theirs = self._shard.count, len(welcome.descriptors)
        completes = tuple(int(number * ours // theirs == self._shard.index) for number in range(theirs))
        peer = self._engine.connect(
            welcome.descriptors,
            require_lane=self._settings.require_lane or None,
            timeout=timeout,
            idle_shards=[number for number, due in enumerate(completes) if due],
            reader_index=self._shard.index * theirs // ours,
        )
        logger.info("reading from %s over lane %s (%s)", name, peer.lane_summary, peer.plan_summary)
        return Connection(peer, welcome.block_sizes, welcome.kernel_blocks, completes)


def standing(connection: Future[Connection]) -> Connection | None:
    """A connection that was made, dead or alive; None: it is in the making, or failed."""
    if not connection.done() or connection.cancelled() or connection.exception() is not None:
        return None
    return connection.result()


def _useless(connection: Future[Connection]) -> bool:
    made = standing(connection)
    return connection.done() and (made is None or not made.alive)
