# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""One process's end of the transfers: its memory, what it publishes, its leases and its peers."""

from __future__ import annotations

import logging
import math
import os
import threading
import weakref
from typing import TYPE_CHECKING, Self, overload

from ._native import core, ucx_file, ucx_version
from .closing import shut, still_mapped
from .config import EngineConfig, check_lanes, native_settings
from .errors import ConfigError
from .leases import Granter
from .notes import Note, taken
from .peer import Peer, check_seconds, log_choice, log_problems
from .regions import BlockLimits, Regions
from .sharded_peer import ShardedPeer, connected

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

logger = logging.getLogger("kvtransfer")


class Engine(Granter):
    """Registers memory, publishes a map of it, grants leases on its blocks, and pulls from other engines.

    An engine belongs to the process that made it: after a fork every call raises ClosedError. Every method may be
    called from any thread. It is a context manager, and closes itself when collected or when the interpreter exits.
    """

    def __init__(self, config: EngineConfig | None = None, *, name: str = "") -> None:
        """Start an engine and its threads; nothing is listened to beyond `config.listen`.

        Args:
            config: Settings; the defaults serve one host.
            name: How peers and logs call it; the process id unless given.

        Raises:
            ConfigError: A setting is bad, there is no such network device, or neither libcrypto nor libsodium.
        """
        self._config = config or EngineConfig()
        self._name = name or f"pid-{os.getpid()}"
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._closing = threading.RLock()
        self._native = core.Engine(native_settings(self._name, self._config))
        self._table = self._native.leases
        self._incarnation = self._native.incarnation
        keepalive: list[object] = []
        self._regions = Regions(self._native, keepalive)
        self._limits: BlockLimits | None = None
        self._published: core.TensorMap | None = None
        self._peers: list[Peer] = []
        # Also runs at interpreter exit; must not refer to self.
        self._finalizer = weakref.finalize(self, shut, self._name, self._native, self._table, keepalive, self._pid)
        still_mapped.drop_free()
        logger.debug("engine %s %016x: UCX %s from %s", self._name, self._incarnation, ucx_version(), ucx_file())

    @property
    def name(self) -> str:
        """How peers and logs call it."""
        return self._name

    @property
    def config(self) -> EngineConfig:
        """The settings it was made with."""
        return self._config

    @property
    def incarnation(self) -> int:
        """Random 64-bit id: a restarted engine is another engine."""
        return self._incarnation

    @property
    def lane_problems(self) -> dict[str, str]:
        """Why others cannot read this engine over a lane, for lanes where that is known; once it has published."""
        return self._native.lane_problems

    @property
    def fence_stream(self) -> int:
        """Handle of a CUDA stream of its own, which it gives nothing: for waits that `stream=` is to stand behind."""
        return self._native.fence_stream()

    @property
    def closed(self) -> bool:
        """Nothing works any more."""
        return not self._finalizer.alive or self._pid != os.getpid()

    def register(self, buffer: object, *, readonly: bool = False) -> int:
        """Register memory, which is kept alive until the engine closes.

        A C-contiguous buffer is registered as it is. Of a strided view the whole storage is, so offsets count from
        the storage's start; `register_tensor` works them out.

        Args:
            buffer: NumPy array, torch tensor on a CPU or a CUDA GPU, or anything with the buffer protocol,
                `__array_interface__` or `__cuda_array_interface__`. What is on a GPU must all be on the same one, and
                for lane `cuda_ipc` in at most 250 pieces if it is mapped piece by piece: expandable segments of
                PyTorch, pieces of 20 MiB, hold 4.9 GiB so.
            readonly: It is only ever read by others. Needed for memory that cannot be written.

        Returns:
            The region's index, for `Component.region`.

        Raises:
            ConfigError: It has no plain memory, is empty, is read-only without `readonly`, or is on a GPU that this
                build or host cannot use.
        """
        self._check_open("register")
        return self._regions.register(buffer, readonly)

    def register_tensor(
        self, name: str, tensor: object, axes: Sequence[str], *, readonly: bool = False, table: int = 0
    ) -> core.Component:
        """Register a tensor's storage and describe the tensor in it. Views of one storage share a region.

        Args:
            name: The component's name.
            tensor: As for `register`; any strides that are not negative, transposed views included.
            axes: One name per dimension; "block" is addressed by block tables, "token" is the position in a block.
            readonly: As for `register`.
            table: Which of the block tables of grants and pulls names its blocks. Pulls can leave out whole tables.

        Returns:
            A component for a TensorMap, with shape, strides and dtype of the tensor.

        Raises:
            ConfigError: Names and dimensions do not match, the strides cannot be described, or `table` is none.
        """
        self._check_open("register_tensor")
        return self._regions.register_tensor(name, tensor, axes, readonly, table)

    def publish(self, map: core.TensorMap) -> None:  # noqa: A002  (the word for it, everywhere)
        """Say what the registered memory holds; once, before `descriptor` and `connect`.

        Raises:
            PlanError: The map contradicts itself or leaves its regions.
            ConfigError: It was called before.
        """
        self._check_open("publish")
        with self._lock:
            if self._published is not None:
                raise ConfigError(f"engine {self._name} has published a map already", operation="publish")
            self._native.publish(map)
            self._published = map
            self._limits = BlockLimits(map)
        log_problems(self._name, self._config.lanes, self.lane_problems)

    def descriptor(self) -> bytes:
        """Everything a reader needs to connect, with the owner's secret; `descriptor_for` makes one reader's of it.

        Raises:
            ConfigError: Nothing was published.
        """
        self._check_open("descriptor")
        return self._native.descriptor()

    @overload
    def connect(
        self,
        descriptor: bytes,
        *,
        lanes: Sequence[str] | None = ...,
        require_lane: str | None = ...,
        timeout: float = ...,
    ) -> Peer: ...

    @overload
    def connect(
        self,
        descriptor: Sequence[bytes],
        *,
        lanes: Sequence[str] | None = None,
        require_lane: str | None = None,
        timeout: float = 10.0,
        idle_shards: bool | Sequence[int] = False,
        reader_index: int | None = None,
    ) -> ShardedPeer: ...

    def connect(
        self,
        descriptor: bytes | Sequence[bytes],
        *,
        lanes: Sequence[str] | None = None,
        require_lane: str | None = None,
        timeout: float = 10.0,
        idle_shards: bool | Sequence[int] = False,
        reader_index: int | None = None,
    ) -> Peer:
        """Connect to the engine that made `descriptor`, and prove each permitted lane by reading a nonce from it.

        Args:
            descriptor: The owner's `descriptor()`; or those of all its shards where its cache lies in several engines,
                such as tensor-parallel ranks. What is read here must be in exactly one of them, or in shards that name
                each other as replicas; those that hold none of it are left alone.
            lanes: Permit only these, best first; `config.lanes` unless given.
            require_lane: Refuse to fall back from this lane.
            timeout: Seconds, for all of them together.
            idle_shards: Connect to these, or to all, although nothing is read from them, so that `complete` tells them.
            reader_index: Readers with different ones read different ones of the shards that are replicas. None: any.

        Raises:
            CodecError: The descriptor does not decode.
            ConfigError: A shard's descriptor is there twice, there is none, or an index is bad.
            ConnectError: The peer could not be reached or refused us.
            MismatchError: The two maps or protocols do not fit.
            PlanError: Our map cannot be filled from theirs.
            LaneError: No permitted lane works, or the required one does not.
        """
        self._check_open("connect")
        check_seconds("timeout", timeout, "connect")
        permitted = self._config.lanes if lanes is None else check_lanes("lanes", lanes)
        required = "" if require_lane is None else check_lanes("require_lane", (require_lane,))[0]
        if self._published is not None:
            self._regions.check_writable(self._published)
        peer = connected(self, self._native, descriptor, (permitted, required, timeout), idle_shards, reader_index)
        # Those that are gone are dropped outside the lock: their pulls may take a while to be quiet.
        with self._lock:
            before, self._peers = self._peers, [*(known for known in self._peers if known.alive), peer]
        del before
        log_choice(self._name, peer, permitted)
        return peer

    @property
    def peers(self) -> tuple[Peer, ...]:
        """Peers that we connected to and that are alive."""
        with self._lock:
            return tuple(peer for peer in self._peers if peer.alive)

    def take_notes(self, timeout: float = 0.0) -> list[Note]:
        """What readers said by `Peer.notify` and nobody has taken yet, in order, each once.

        At most 256 of a session and 4096 in all are kept until they are taken; more are dropped, and counted as
        `notes_dropped`. Whoever can connect can leave notes: what they say is to be checked.

        Args:
            timeout: Seconds to wait for the first, without the GIL; 0 does not wait.

        Raises:
            ConfigError: `timeout` is no number of seconds.
        """
        self._check_open("take_notes")
        if not 0 <= timeout < math.inf:
            raise ConfigError(f"timeout={timeout}: expected a number of seconds, or 0", operation="take_notes")
        return taken(self._native, timeout)

    def counters(self) -> dict[str, int]:
        """What was counted since the start: bad_token, bad_message, refused_runs, stale_epoch, bytes_served, ..."""
        self._check_open("counters")
        return self._native.counters()

    def close(self) -> None:
        """Revoke every lease, close every peer, join the threads, let go of the memory. Idempotent.

        Memory on a GPU that readers have mapped is let go once they have let go of it, mostly at once. If some do not
        within 5 s, such as a stopped process, the log says so, and the memory is kept.
        """
        self._check_process("close")
        # Whoever comes second waits for the first. Reentrant: a signal's handler may come in between.
        with self._closing:
            self._finalizer()
            self._peers = []  # each refers to this engine: it would wait for the garbage collector, sockets and all

    def __enter__(self) -> Self:
        """The engine itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def __repr__(self) -> str:
        """Name, incarnation and state, for logs."""
        return f"<Engine {self._name!r} {self._incarnation:016x}{' closed' if self.closed else ''}>"
