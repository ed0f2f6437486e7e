# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What an engine can be told."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from ._native import core, load_mac_library
from .errors import ConfigError
from .memory import default_directory

if TYPE_CHECKING:
    from collections.abc import Callable

KNOWN_LANES = core.LANES
# Least and most of what counts something; of `admission`, its bytes.
LIMITS = core.SETTING_LIMITS
CUDA_COPIES = core.CUDA_COPIES
_NATIVE = core.EngineSettings()


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
        cuda_copy: What copies on that lane: "kernel", ours; "bulk", ours for GPUs of compute capability 9.0 and newer,
            which moves bytes in bulk through shared memory (not yet measured); or "batch", the driver's batched copies
            (CUDA 13.0 or newer).
        message_streams: TCP connections, each with a thread of its own on both sides, that a large pull on the message
            lane is spread over, 1 to 8; of two engines the lower number counts. None: 2 where this process may use two
            processors or more, else 1.
        lease_slots: Leases that can be live at a time, at most 65536; all ranks of an owner need the same number.
        max_hold: Seconds after which a lease ends however often it was renewed.
        admission: Secret of 16 to 256 bytes that a reader's descriptor must carry; None makes a random one.

    Raises:
        ConfigError: A field is bad; the message names it, its value and what was expected.
    """

    listen: str = _NATIVE.listen
    lanes: tuple[str, ...] = KNOWN_LANES
    rdma_devices: str = _NATIVE.rdma_devices
    rdma_staging: bool = _NATIVE.rdma_staging
    segment_bytes: int = _NATIVE.segment_bytes
    shm_directory: str | None = None
    copy_threads: int = _NATIVE.copy_threads
    cuda_sms: int = _NATIVE.cuda_sms
    cuda_copy: str = _NATIVE.cuda_copy
    message_streams: int | None = None
    lease_slots: int = _NATIVE.lease_slots
    max_hold: float = _NATIVE.max_hold
    admission: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check every field."""
        for item in fields(self):
            value = getattr(self, item.name)
            if wanted := expected(item.name, value):
                raise _bad(item.name, value, wanted)
        object.__setattr__(self, "lanes", tuple(self.lanes))


def expected(name: str, value: object) -> str | None:
    """What a setting should be, for people, where this value is not it."""
    if value is None and name in _OPTIONAL:
        return None
    if name in _RULES:
        fits, wanted = _RULES[name]
        return None if fits(value) else wanted
    low, high = LIMITS[name]
    fits_in = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    return None if fits_in else f"an integer from {low} to {high}"


def check_lanes(name: str, lanes: object) -> tuple[str, ...]:
    """A sequence of distinct known lanes as a tuple, else ConfigError naming the argument."""
    if isinstance(lanes, list | tuple) and _are_lanes(lanes):
        return tuple(lanes)
    raise _bad(name, lanes, _RULES["lanes"][1])


def _are_lanes(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(lane in KNOWN_LANES for lane in value)
        and len(set(value)) == len(value)
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _is_secret(value: object) -> bool:
    low, high = LIMITS["admission"]
    return isinstance(value, bytes) and low <= len(value) <= high


_OPTIONAL = ("shm_directory", "message_streams", "admission")
# Settings that count something have their limits in the core.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "listen": (_is_text, "the name of a network device, such as 'lo' or 'eth0'"),
    "lanes": (_are_lanes, f"a non-empty list without repeats, out of {', '.join(KNOWN_LANES)}, best first"),
    "rdma_devices": (_is_text, "UCX's names of RDMA devices, or all"),
    "rdma_staging": (lambda value: isinstance(value, bool), "True or False"),
    "shm_directory": (lambda value: isinstance(value, str) and value.startswith("/"), "an absolute path, or nothing"),
    "cuda_copy": (CUDA_COPIES.__contains__, f"one of {', '.join(CUDA_COPIES)}"),
    "max_hold": (_is_time, "a positive number of seconds"),
    "admission": (_is_secret, "{} to {} bytes, or None".format(*LIMITS["admission"])),
}


def _bad(name: str, value: object, wanted: str) -> ConfigError:
    shown = repr(value)
    if name == "admission":  # a secret
        shown = f"<{len(value)} bytes>" if isinstance(value, bytes) else type(value).__name__
    return ConfigError(f"{name}={shown}: expected {wanted}", operation="configure engine")


def native_settings(name: str, config: EngineConfig) -> core.EngineSettings:
    """What the core is told: `config`, and what this process is like."""
    load_mac_library()
    settings = core.EngineSettings()
    settings.name = name
    settings.shm_directory = default_directory()
    settings.message_streams = min(2, len(os.sched_getaffinity(0)))
    for item in fields(config):
        value = getattr(config, item.name)
        if value is not None:
            setattr(settings, item.name, value)
    return settings
