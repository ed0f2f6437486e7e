# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Another engine, as the one that reads from it sees it."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, NoReturn

from .arrays import Tables, tables_or_none
from .config import KNOWN_LANES, check_lanes
from .errors import ConfigError, PlanError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._native import core
    from .pull import Pull

logger = logging.getLogger("kvtransfer")


class Peer:
    """A connection to another engine; made by `Engine.connect`. Thread-safe."""

    __slots__ = ("__weakref__", "_native", "_whose")

    def __init__(self, native: core.Peer, keepalive: object) -> None:
        """Wrap a native peer; `keepalive` is the engine that it works with."""
        self._native = native
        self._whose = (native.name, keepalive)  # of its pulls

    @property
    def name(self) -> str:
        """The other engine's name."""
        return self._whose[0]

    @property
    def incarnation(self) -> int:
        """Random 64-bit id of the other engine; a restarted one has another."""
        return self._native.incarnation

    @property
    def native(self) -> core.Peer | None:
        """The core's own object, for this package; None where there are several."""
        return self._native

    @property
    def lane(self) -> str:
        """The lane that pulls take unless they name one."""
        return self._native.lane

    @property
    def lanes(self) -> tuple[str, ...]:
        """Lanes that proved themselves at connect, best first."""
        return tuple(self._native.lanes)

    @property
    def lane_summary(self) -> str:
        """The lane that pulls take, and on `cuda_ipc` what the driver says of the link between the two GPUs."""
        return self._native.lane_summary

    @property
    def alive(self) -> bool:
        """Nothing has failed on the connection yet."""
        return self._native.alive

    @property
    def map(self) -> core.TensorMap:
        """What the other engine published."""
        return self._native.map

    @property
    def plan_summary(self) -> str:
        """How bytes will get from its map to ours: bytes and runs per block."""
        return self._native.plan_summary

    def pull(
        self,
        lease: core.LeaseRef,
        remote: Tables,
        local: Tables,
        *,
        start: int = 0,
        stop: int,
        watermark: int | None = None,
        timeout: float = 30.0,
        lane: str | None = None,
        stream: int | None = None,
        verify: bool = False,
    ) -> Pull:
        """Read positions [start, stop) from the peer's blocks into ours; returns at once.

        Args:
            lease: What the owner promised; must cover the remote blocks.
            remote: One 1-D integer block table per table of the peer's map; a negative id is a hole.
            local: The same for our map; these blocks are written. Of a table that is None nothing is read, and the
                remote one may be None, too: components with tables of their own are so chosen by pull.
            start: First position.
            stop: Past the last position.
            watermark: Positions that must be final at the owner; `stop` unless given. While it is lower the pull
                waits, within `timeout`.
            timeout: Seconds until the pull fails with PullTimeout.
            lane: Take this lane, one of `lanes`, instead of the best.
            stream: A CUDA stream's handle, such as `torch.cuda.current_stream().cuda_stream`: the destination is free
                once the stream has done what it was given so far, and the pull waits for that by itself. None: it is
                free now. The pull's own end needs no stream: what is launched after it sees the bytes.
            verify: Once the bytes are there, ask the owner for its digest of them (XXH3-128, under the same lease), and
                fail with DigestMismatch where ours is another. It costs both sides the time to hash them.

        Raises:
            PlanError: The tables or the range cannot be carried exactly once. Of a large pull on a GPU a part may have
                been copied then; nothing is under way.
            ConfigError: Another argument is bad; or memory on a GPU is to be verified, which cannot be done yet.
            LaneError: `lane` did not prove itself.
            PeerLost: The peer is gone.
        """
        # Calls cost as much as looking: what is wrong is found out only where something is.
        if not 0 <= start < stop or (watermark is not None and watermark < 0):
            refuse_range(start, stop, watermark)
        if not 0 < timeout < math.inf:
            check_seconds("timeout", timeout, "pull")
        return self._native.pull(
            lease,
            remote,
            local,
            start,
            stop,
            stop if watermark is None else watermark,
            timeout,
            "" if lane is None else check_lanes("lane", (lane,))[0],
            stream,
            verify,
            tables_or_none,
            self._whose,
        )

    def complete(self, lease: core.LeaseRef, *, readers: int = 1) -> None:
        """Tell the owner that this reader needs the lease no more; lost without notice if the peer is gone.

        Args:
            lease: Which one.
            readers: Reader ranks that complete it; the lease ends with the last of them.
        """
        check_count("readers", readers)
        self._native.complete(lease, readers)

    def hold(self, lease: core.LeaseRef, *, term: float = 60.0, affirm_within: float = 300.0) -> None:
        """Renew the lease from the engine's own thread until `complete`, `drop`, or no `affirm` for a while.

        Args:
            lease: Which one.
            term: Seconds that each renewal asks for, from 0.1 to a million; it is renewed well before they pass.
            affirm_within: Seconds without `affirm` after which renewing stops.
        """
        check_seconds("term", term, "hold")
        check_seconds("affirm_within", affirm_within, "hold")
        self._native.hold(lease, term, affirm_within)

    def affirm(self, lease: core.LeaseRef) -> None:
        """Say that a held lease is still wanted; cheap, meant for every step. Unknown leases are ignored."""
        self._native.affirm(lease)

    def drop(self, lease: core.LeaseRef) -> None:
        """Stop renewing a held lease without completing it."""
        self._native.drop(lease)

    def notify(self, body: bytes) -> None:
        """Tell the owner's program something, which it hears by `Engine.take_notes`; returns at once.

        Notes of one peer arrive in order, and before what is completed after them. One is lost without notice if the
        peer goes away, or if its program takes none for long: nobody who waits for an answer should do so for ever.

        Args:
            body: At most 1024 bytes. What is larger is leased, and pulled by the owner.

        Raises:
            ConfigError: It is longer.
            PeerLost: The peer is gone.
        """
        self._native.notify(body)

    def close(self) -> None:
        """Fail running pulls with PeerLost and return when their destinations are quiet. Idempotent."""
        self._native.close()

    def __repr__(self) -> str:
        """Name, incarnation, lane and state, for logs."""
        state = "alive" if self.alive else "lost"
        return f"<Peer {self.name!r} {self.incarnation:016x} lane={self.lane} {state}>"


def refuse_range(start: int, stop: int, watermark: int | None) -> NoReturn:
    """Raise PlanError: positions are no range, or a watermark is none."""
    if start < 0:
        raise PlanError(f"start={start} is negative", operation="pull")
    if stop <= start:
        raise PlanError(f"stop={stop} is not past start={start}", operation="pull")
    raise PlanError(f"watermark={watermark} is negative", operation="pull")


def check_count(name: str, value: int) -> None:
    """Raise ConfigError for an argument that counts nothing."""
    if not 1 <= value < 1 << 32:
        raise ConfigError(f"{name}={value}: expected a count of at least 1", operation="pull")


def check_seconds(name: str, value: float, operation: str) -> None:
    """Raise ConfigError for an argument that is no time to wait."""
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name}={value}: expected a positive number of seconds", operation=operation)


def log_problems(engine: str, permitted: Sequence[str], problems: Mapping[str, str]) -> None:
    """Say why readers cannot read an engine over some lanes."""
    if "shm" in permitted and (reason := problems.get("shm")):
        logger.info("engine %s: readers on this host cannot map its memory: %s", engine, reason)
    for lane in ("cuda_ipc", "rdma"):
        if reason := problems.get(lane):
            logger.warning("engine %s: lane %s does not carry its CUDA memory: %s", engine, lane, reason)


def log_choice(engine: str, peer: Peer, permitted: Sequence[str]) -> None:
    """Say which lane an engine takes to a peer, and why not the others."""

    def why_not(lane: str) -> str:
        if lane not in permitted:
            return "not permitted"
        return "works, less preferred" if lane in peer.lanes else "did not prove itself"

    others = ", ".join(f"{lane} ({why_not(lane)})" for lane in KNOWN_LANES if lane != peer.lane)
    logger.info(
        "engine %s: peer %s %016x takes lane %s; not: %s; plan: %s",
        engine,
        peer.name,
        peer.incarnation,
        peer.lane_summary,
        others or "none other",
        peer.plan_summary,
    )
