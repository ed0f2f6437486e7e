# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Everything that can take part in a run, by the name it has on the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .errors import BenchUsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .workload import Device

LANE_MODULE = "kvdirect_backend"
CUDA_COPIES = ("kernel", "bulk", "batch")
_LANE_NAME = re.compile(r"kvdirect-([a-z_]+?)(?:-([0-9]{1,2})t|-(bulk|batch))?")
_HOST: tuple[Device, ...] = ("cpu",)
_GPU: tuple[Device, ...] = ("cuda",)
_BOTH: tuple[Device, ...] = ("cpu", "cuda")
# Other lanes carry host memory only.
_LANE_DEVICES = {"cuda_ipc": _GPU, "rdma": _BOTH}


@dataclass(frozen=True, slots=True)
class Contender:
    """One engine at one setting.

    Attributes:
        name: On the command line and in messages.
        engine: In rows.
        module: In kvdirect_bench.backends.
        variant: Which setting; the module's words.
        needs: Python module that must be importable in its processes; "" for kvtransfer, which is.
        native: It is one of the C++ yardsticks, which only a checkout has.
        alone: There is one process only, which is owner and reader.
        restless: It computes when nobody asks it to, so it is stopped while others have their turn.
        environment: Variables that its library reads.
        copy_threads: Of kvtransfer's engines; None: as the command line says.
        cuda_copy: How kvtransfer's engines copy GPU memory; "": as they do by themselves.
        devices: Whose memory it moves.
        optional: One of the lanes that are tried because none were named; it may be missing here.
    """

    name: str
    engine: str
    module: str
    variant: str = ""
    needs: str = ""
    native: bool = False
    alone: bool = False
    restless: bool = False
    environment: tuple[tuple[str, str], ...] = field(default=())
    copy_threads: int | None = None
    cuda_copy: str = ""
    devices: tuple[Device, ...] = _HOST
    optional: bool = False


def lane_devices(lane: str) -> tuple[Device, ...]:
    """Whose memory that lane carries."""
    return _LANE_DEVICES.get(lane, _HOST)


def lane_contender(
    lane: str, *, copy_threads: int | None = None, cuda_copy: str = "", optional: bool = False
) -> Contender:
    """Our own engine by one lane; with so many copy threads or that way to copy on a GPU, if that is asked for."""
    suffix = "" if copy_threads is None else f"-{copy_threads}t"
    if cuda_copy in CUDA_COPIES[1:]:
        suffix = f"-{cuda_copy}"
    return Contender(
        f"kvdirect-{lane}{suffix}",
        f"kvdirect{suffix}",
        LANE_MODULE,
        lane,
        copy_threads=copy_threads,
        cuda_copy=cuda_copy,
        devices=lane_devices(lane),
        optional=optional,
    )


_OTHERS = {
    one.name: one
    for one in (
        Contender("memcpy", "memcpy", "memcpy_backend", "1", native=True, alone=True),
        Contender("memcpy2", "memcpy2", "memcpy_backend", "2", native=True, alone=True),
        Contender("socket", "socket", "socket_backend", "1", native=True),
        Contender("socket2", "socket2", "socket_backend", "2", native=True),
        Contender("device-copy", "device-copy", "device_copy_backend", "host", alone=True, devices=_GPU),
        Contender(
            "device-copy-events", "device-copy-events", "device_copy_backend", "events", alone=True, devices=_GPU
        ),
        Contender("ucx", "ucx", "ucx_backend", native=True, devices=_BOTH),
        Contender("nixl", "nixl", "nixl_backend", "threads", needs="nixl", restless=True, devices=_BOTH),
        Contender("nixl-best", "nixl-best", "nixl_backend", "poll", needs="nixl", devices=_BOTH),
        Contender(
            "nixl-tcp",
            "nixl-tcp",
            "nixl_backend",
            "threads",
            needs="nixl",
            restless=True,
            environment=(("UCX_TLS", "tcp"),),
        ),
        Contender("mooncake", "mooncake", "mooncake_backend", needs="mooncake"),
        Contender("ucxx", "ucxx", "ucxx_backend", needs="ucxx", restless=True),
    )
}
OTHERS = tuple(_OTHERS)


def others_on(device: Device) -> tuple[str, ...]:
    """The names of those that move such memory."""
    return tuple(name for name, one in _OTHERS.items() if device in one.devices)


def others(names: Sequence[str], device: Device | None = None) -> list[Contender]:
    """The contenders of these names, each once.

    Args:
        names: As on the command line.
        device: Whose memory they must be able to move; None: any.

    Raises:
        BenchUsageError: There is none of that name, or it moves no such memory.
    """
    for name in names:
        if name not in _OTHERS:
            known = OTHERS if device is None else others_on(device)
            raise BenchUsageError(f"--vs {name}: expected some of {', '.join(known)}")
        if device is not None and device not in _OTHERS[name].devices:
            raise BenchUsageError(
                f"--vs {name}: does not move memory of --device {device}; expected some of "
                f"{', '.join(others_on(device))}"
            )
    return [_OTHERS[name] for name in dict.fromkeys(names)]


def by_name(name: str) -> Contender:
    """The contender of that name, lanes included.

    Raises:
        BenchUsageError: There is none.
    """
    lane = _LANE_NAME.fullmatch(name)
    if lane is None:
        return others([name])[0]
    return lane_contender(lane[1], copy_threads=None if lane[2] is None else int(lane[2]), cuda_copy=lane[3] or "")
