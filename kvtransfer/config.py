# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What an engine can be told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ._native import core
from .errors import ConfigError

KNOWN_LANES = core.LANES
_SEGMENT_LIMITS = (1 << 14, 1 << 22)
_MAX_SLOTS = 1 << 16
_MAX_STREAMS = 8
_MAX_SMS = 1024
CUDA_COPIES = ("kernel", "batch")
_SECRET_LIMITS = (16, 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Settings of one engine; every field is checked when the object is made.

    Attributes:
        listen: Network device of the sessions and of the message lane ("lo", "eth0", ...); its first IPv4 address is
            used, or with "eth0/ipv6" its first IPv6 address. The default keeps the engine on this host.
        lanes: Lanes that may be used, best first.
        rdma_devices: Devices of the rdma lane, as in UCX_NET_DEVICES ("mlx5_0:1,mlx5_1:1"), or "all".
        rdma_staging: The rdma lane may stage CUDA memory that no network card reaches through host memory: both
            processors then take part, and it is much slower. Else such memory is refused.
        segment_bytes: What the owner sends in one go on the message lane.
        shm_directory: Where engines of this user on this host meet for the lanes shm and cuda_ipc; made with mode 0700
            if it is not there. Containers that are to use the lanes share it. None: `$XDG_RUNTIME_DIR/kvdirect`, or
            `/tmp/kvdirect-UID`.
        copy_threads: Threads that copy large pulls within this host, 1 to 64.
        cuda_sms: Multiprocessors of the GPU that pulls over lane cuda_ipc may keep busy, 1 to 1024; 0: a quarter of
            what it has.
        cuda_copy: What copies on that lane: "kernel", ours, or "batch", the driver's batched copies (CUDA 13.0 or
            newer).
        message_streams: TCP connections, each with a thread of its own on both sides, that a large pull on the message
            lane is spread over, 1 to 8; of two engines the lower number counts. None: 2 where this process may use two
            processors or more, else 1.
        lease_slots: Leases that can be live at a time, at most 65536; all ranks of an owner need the same number.
        max_hold: Seconds after which a lease ends however often it was renewed.
        admission: Secret of 16 to 256 bytes that a reader's descriptor must carry; None makes a random one.

    Raises:
        ConfigError: A field is bad; the message names it, its value and what was expected.
    """

    listen: str = "lo"
    lanes: tuple[str, ...] = KNOWN_LANES
    rdma_devices: str = "all"
    rdma_staging: bool = False
    segment_bytes: int = 262144
    shm_directory: str | None = None
    copy_threads: int = 2
    cuda_sms: int = 0
    cuda_copy: str = "kernel"
    message_streams: int | None = None
    lease_slots: int = _MAX_SLOTS
    max_hold: float = 480.0
    admission: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check every field."""
        if not isinstance(self.listen, str) or not self.listen.strip():
            raise _bad("listen", self.listen, "the name of a network device, such as 'lo' or 'eth0'")
        object.__setattr__(self, "lanes", check_lanes("lanes", self.lanes))
        if not isinstance(self.rdma_devices, str) or not self.rdma_devices.strip():
            raise _bad("rdma_devices", self.rdma_devices, "UCX's names of RDMA devices, such as 'mlx5_0:1', or 'all'")
        if not isinstance(self.rdma_staging, bool):
            raise _bad("rdma_staging", self.rdma_staging, "True or False")
        _check_integer("segment_bytes", self.segment_bytes, *_SEGMENT_LIMITS)
        if self.shm_directory is not None and not (
            isinstance(self.shm_directory, str) and self.shm_directory.startswith("/")
        ):
            raise _bad("shm_directory", self.shm_directory, "an absolute path, or None")
        _check_integer("copy_threads", self.copy_threads, 1, 64)
        if self.message_streams is not None:
            _check_integer("message_streams", self.message_streams, 1, _MAX_STREAMS)
        _check_integer("cuda_sms", self.cuda_sms, 0, _MAX_SMS)
        if self.cuda_copy not in CUDA_COPIES:
            raise _bad("cuda_copy", self.cuda_copy, f"one of {', '.join(CUDA_COPIES)}")
        _check_integer("lease_slots", self.lease_slots, 1, _MAX_SLOTS)
        _check_seconds("max_hold", self.max_hold)
        _check_admission(self.admission)


def check_lanes(name: str, lanes: object) -> tuple[str, ...]:
    """A sequence of distinct known lanes as a tuple, else ConfigError naming the argument."""
    expected = f"one or more of {', '.join(KNOWN_LANES)}, each once, best first"
    if isinstance(lanes, str) or not isinstance(lanes, list | tuple) or not lanes:
        raise _bad(name, lanes, expected)
    if any(lane not in KNOWN_LANES for lane in lanes) or len(set(lanes)) != len(lanes):
        raise _bad(name, lanes, expected)
    return tuple(lanes)


def _check_admission(admission: object) -> None:
    if admission is None:
        return
    low, high = _SECRET_LIMITS
    if not isinstance(admission, bytes):
        raise _bad("admission", type(admission).__name__, f"{low} to {high} bytes, or None")
    if not low <= len(admission) <= high:
        raise _bad("admission", f"<{len(admission)} bytes>", f"{low} to {high} bytes, or None")


def _check_seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise _bad(name, value, "a positive number of seconds")


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _bad(name, value, f"an integer from {low} to {high}")


def _bad(name: str, value: object, expected: str) -> ConfigError:
    return ConfigError(f"{name}={value!r}: expected {expected}", operation="configure engine")
