# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Hooks for tests of programs that pull; they exist only in builds made with KVDIRECT_TEST_HOOKS=1.

In other builds each raises ConfigError; those of GPUs also where the build has no CUDA parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from ._native import core
from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def stall_next_pull(file: Path | str) -> None:
    """Have this process's next pull stand still half-way, so that a test can end one of its two sides there.

    On lane ``message`` it is the next pull that this process serves, on the others the next that it makes. It writes
    ``landed total``, in bytes, to `file` and goes on when that file is gone; its deadline and its lease run on.

    Args:
        file: Does not exist yet, in a folder that does.
    """
    _hook("stall_next_pull")(str(file))


def spoil_next_pull() -> None:
    """Have the next pull of this process that is verified find its first byte changed once all have landed."""
    _hook("spoil_next_pull")()


def rdma_over(transports: str) -> None:
    """Let the rdma lane of engines made from now on use other UCX transports than RDMA devices.

    For machines that have none: the transports must read one-sidedly between processes, as ``"cma,posix"`` does.

    Args:
        transports: As in UCX_TLS.
    """
    _hook("set_rdma_transports")(transports)


def cuda_regions(kind: Literal["real", "claimed", "host"]) -> None:
    """Say what regions registered as CUDA memory with engines made from now on are.

    Args:
        kind: "real", memory of a GPU; "claimed", host memory, which no GPU is asked about; "host", the same, and the
            rdma lane tells UCX that it is host memory.
    """
    _hook("set_cuda_regions")(kind)


def use_cuda_driver(path: Path | str) -> None:
    """Load another library as CUDA's driver than the system's libcuda.so.1, before anything uses a GPU.

    Args:
        path: Of a library with the driver's functions.
    """
    _hook("use_cuda_driver")(str(path))


def device_bytes(count: int, *, pieces: int = 0, exportable: bool = True) -> core.DeviceBytes:
    """Memory of GPU 0 for tests, which so need neither torch nor the CUDA runtime.

    Args:
        count: Bytes.
        pieces: 0: as cudaMalloc gives it. Else it is that many allocations, mapped one behind the other.
        exportable: Of pieces: other processes can map them.

    Raises:
        TransportError: The GPU has not so much memory.
    """
    return cast("core.DeviceBytes", _hook("DeviceBytes")(count, pieces, exportable))


def device_stream() -> core.DeviceStream:
    """A stream of GPU 0 that a test can keep busy."""
    return cast("core.DeviceStream", _hook("DeviceStream")())


def _hook(name: str) -> Callable[..., object]:
    hook: Callable[..., object] | None = getattr(core, name, None)
    if hook is None:
        raise ConfigError(
            "this build of kvtransfer has no such test hook",
            operation=name,
            hint="build with KVDIRECT_TEST_HOOKS=1 in the environment, for tests only; those of GPUs need nvcc too",
        )
    return hook
