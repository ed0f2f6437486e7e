# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
from collections.abc import Callable, Generator, Sequence
from enum import Enum
from typing import Any, Final, Literal, final

import numpy as np
import numpy.typing as npt

_IntArray = npt.NDArray[np.integer[Any]] | Sequence[int]
_Table = npt.NDArray[np.int64]
_Tables = Sequence[_IntArray | None]
_EndReason = Literal["completed", "expired", "revoked", "max_hold"]
# Nothing below can be assigned to, but the fields of EngineSettings; what changes by itself is a property. Axis,
# Component, TensorMap, LeaseRef, LeaseEnd and PullResult are compared and hashed by value.

PROTOCOL_VERSION: int
CUDA_BUILD: bool
CUDA_COPIES: tuple[str, ...]
LANES: tuple[str, ...]

class MemoryKind(Enum):
    HOST = 0
    CUDA = 1

@final
class Axis:
    def __init__(self, name: str, extent: int, stride: int, owned: Sequence[tuple[int, int, int]] = ()) -> None: ...
    name: Final[str]
    extent: Final[int]
    stride: Final[int]
    owned: Final[tuple[tuple[int, int, int], ...]]

@final
class Component:
    def __init__(
        self,
        name: str,
        axes: Sequence[Axis],
        *,
        dtype: str,
        item_bytes: int,
        elements_per_item: int = 1,
        tokens_per_cell: int = 1,
        region: int = 0,
        offset: int = 0,
        table: int = 0,
        memory: MemoryKind = ...,
        replica_group: int = 0,
    ) -> None: ...
    name: Final[str]
    axes: Final[tuple[Axis, ...]]
    dtype: Final[str]
    item_bytes: Final[int]
    elements_per_item: Final[int]
    tokens_per_cell: Final[int]
    region: Final[int]
    offset: Final[int]
    table: Final[int]
    memory: Final[MemoryKind]
    replica_group: Final[int]

@final
class TensorMap:
    def __init__(self, components: Sequence[Component]) -> None: ...
    components: Final[tuple[Component, ...]]
    def encode(self) -> bytes: ...
    @staticmethod
    def decode(data: bytes) -> TensorMap: ...
    def validate(self, region_bytes: Sequence[int]) -> None: ...

@final
class Plan:
    def __init__(self, local: TensorMap, remotes: Sequence[TensorMap], reader_index: int = 0) -> None: ...
    def runs(
        self, shard: int, remote: Sequence[_IntArray], local: Sequence[_IntArray], start: int, stop: int
    ) -> npt.NDArray[np.uint64]: ...
    def summary(self) -> str: ...
    shards: Final[int]

def block_extents(map: TensorMap, tables: Sequence[_IntArray]) -> npt.NDArray[np.uint64]: ...  # noqa: A002

@final
class LeaseRef:
    def __init__(self, slot: int, epoch: int) -> None: ...
    slot: Final[int]
    epoch: Final[int]

@final
class LeaseEnd:
    def __init__(self, lease: LeaseRef, reason: _EndReason) -> None: ...
    lease: Final[LeaseRef]
    reason: Final[_EndReason]

@final
class LeaseTable:
    def __init__(self, slots: int = 65536, max_hold: float = 480.0) -> None: ...
    def reserve(self) -> LeaseRef | None: ...
    def reserve_exact(self, lease: LeaseRef) -> None: ...
    def grant(
        self, lease: LeaseRef, tables: Sequence[_Table], ranges: Sequence[tuple[int, int, int]] = ...
    ) -> None: ...
    def grant_or_reserve(
        self, lease: LeaseRef | None, tables: Sequence[_Table], ranges: Sequence[tuple[int, int, int]] = ...
    ) -> LeaseRef | None: ...
    def raise_watermark(self, lease: LeaseRef, positions: int) -> None: ...
    def start_term(self, lease: LeaseRef, term: float) -> None: ...
    def renew(self, lease: LeaseRef, term: float) -> bool: ...
    def complete(self, lease: LeaseRef, readers: int = 1) -> bool: ...
    def revoke(self, lease: LeaseRef) -> bool: ...
    def revoke_all(self) -> None: ...
    def expire(self) -> float | None: ...
    def verdict(self, lease: LeaseRef, positions: int) -> Literal["valid", "not_yet", "expired"]: ...
    def blocks(self, lease: LeaseRef) -> list[list[int]] | None: ...
    def take_ended(self) -> list[LeaseEnd]: ...
    @property
    def live(self) -> int: ...
    slots: Final[int]

@final
class EngineSettings:
    def __init__(self) -> None: ...
    name: str
    listen: str
    lanes: Sequence[str]
    rdma_devices: str
    rdma_staging: bool
    segment_bytes: int
    shm_directory: str
    copy_threads: int
    cuda_sms: int
    cuda_copy: str
    message_streams: int
    lease_slots: int
    max_hold: float
    admission: bytes

# Least and most, by setting; of `admission` its bytes.
SETTING_LIMITS: dict[str, tuple[int, int]]

@final
class Engine:
    def __init__(self, settings: EngineSettings) -> None: ...
    def register_region(self, address: int, length: int, memory: MemoryKind) -> int: ...
    def publish(self, map: TensorMap) -> None: ...  # noqa: A002
    def readers_mapping(self) -> int: ...
    def raise_watermarks_after(self, watermarks: list[tuple[LeaseRef, int]], stream: int) -> None: ...
    def fence_stream(self) -> int: ...
    def descriptor(self) -> bytes: ...
    def connect(self, descriptor: bytes, lanes: Sequence[str], require_lane: str, timeout: float) -> Peer: ...
    def connect_shards(
        self,
        descriptors: list[bytes],
        lanes: Sequence[str],
        require_lane: str,
        timeout: float,
        idle: list[int],
        reader_index: int | None,
    ) -> ShardedPeer: ...
    def counters(self) -> dict[str, int]: ...
    def take_notes(self, seconds: float) -> list[tuple[str, int, bytes]]: ...
    def close(self) -> None: ...
    leases: Final[LeaseTable]
    incarnation: Final[int]
    @property
    def lane_problems(self) -> dict[str, str]: ...
    @property
    def closed(self) -> bool: ...

@final
class DeviceBytes:
    def __init__(self, count: int, pieces: int = 0, exportable: bool = True) -> None: ...
    address: Final[int]
    __cuda_array_interface__: Final[dict[str, object]]
    def write(self, offset: int, data: bytes) -> None: ...
    def read(self, offset: int, count: int) -> bytes: ...

@final
class DeviceStream:
    def __init__(self) -> None: ...
    handle: Final[int]
    def write(self, memory: DeviceBytes, offset: int, data: bytes, delay: float = 0.0) -> None: ...

def load_mac_library(more: list[str]) -> str: ...
def descriptor_for(descriptor: bytes, identity: bytes, not_after: int) -> bytes: ...
def shared_bytes(bytes: int) -> npt.NDArray[np.uint8]: ...  # noqa: A002
def large_pages(address: int, length: int) -> bool | None: ...

@final
class Peer:
    name: Final[str]
    incarnation: Final[int]
    lane: Final[str]
    lanes: Final[list[str]]
    @property
    def alive(self) -> bool: ...
    map: Final[TensorMap]
    lane_summary: Final[str]
    plan_summary: Final[str]
    def pull(
        self,
        lease: LeaseRef,
        remote: _Tables,
        local: _Tables,
        start: int,
        stop: int,
        watermark: int,
        timeout: float,
        lane: str,
        stream: int | None,
        verify: bool,
        convert: Callable[[_Tables, str, str], list[_Table | None]],
        whose: tuple[str, object],
    ) -> Pull: ...
    def complete(self, lease: LeaseRef, readers: int) -> None: ...
    def hold(self, lease: LeaseRef, term: float, affirm_within: float) -> None: ...
    def affirm(self, lease: LeaseRef) -> None: ...
    def notify(self, body: bytes) -> None: ...
    def drop(self, lease: LeaseRef) -> None: ...
    def close(self) -> None: ...

@final
class ShardedPeer:
    name: Final[str]
    incarnation: Final[int]
    count: Final[int]
    read: Final[list[int]]
    lane: Final[str]
    lanes: Final[list[str]]
    lane_summary: Final[str]
    @property
    def alive(self) -> bool: ...
    maps: Final[list[TensorMap]]
    plan_summary: Final[str]
    def pull(
        self,
        leases: list[LeaseRef],
        remote: list[_Tables],
        local: _Tables,
        start: int,
        stop: int,
        watermark: int,
        timeout: float,
        lane: str,
        stream: int | None,
        verify: bool,
        convert: Callable[[_Tables, str, str], list[_Table | None]],
        whose: tuple[str, object],
    ) -> Pull: ...
    def complete(self, leases: list[LeaseRef], readers: list[int]) -> None: ...
    def hold(self, leases: list[LeaseRef], term: float, affirm_within: float) -> None: ...
    def affirm(self, leases: list[LeaseRef]) -> None: ...
    def notify(self, body: bytes) -> None: ...
    def drop(self, leases: list[LeaseRef]) -> None: ...
    def close(self) -> None: ...

@final
class PullResult:
    def __init__(self, bytes: int, runs: int, lane: str, seconds: float, post_seconds: float) -> None: ...  # noqa: A002
    bytes: Final[int]
    runs: Final[int]
    lane: Final[str]
    seconds: Final[float]
    post_seconds: Final[float]
    shard: Final[int]
    shards: Final[list[PullResult]]

@final
class Pull:
    @property
    def done(self) -> bool: ...
    @property
    def quiet(self) -> bool: ...
    @property
    def cancelled(self) -> bool: ...
    def poll(self) -> bool: ...
    def result(self) -> PullResult: ...
    def wait(self, timeout: float | None = None) -> PullResult: ...
    def cancel(self) -> None: ...
    def fileno(self) -> int: ...
    def __await__(self) -> Generator[object, None, PullResult]: ...

def gather(
    parts: Sequence[tuple[Peer, LeaseRef, _Tables, _Tables, int, int, int]],
    numbers: Sequence[int],
    timeout: float,
    lane: str,
    stream: int | None,
    verify: bool,
    convert: Callable[[_Tables, str, str], list[_Table | None]],
    whose: tuple[str, object],
) -> Pull: ...
