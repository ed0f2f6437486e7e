# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Memory that readers on the same host can map: what the shm lane needs."""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ._native import core
from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt


def empty(shape: int | Sequence[int], dtype: npt.DTypeLike = np.uint8) -> npt.NDArray[Any]:
    """An array of zeros in shared memory, resident, with pages of 2 MiB where the kernel gives them.

    What engines on the same host read from such memory they read without a system call (lane shm). A torch tensor of
    it is `torch.from_numpy(empty(n)).view(torch.bfloat16)`. The memory is freed with the last array, tensor and
    engine that use it; after a fork without exec it is shared with the child.

    Args:
        shape: Elements, or elements per axis.
        dtype: Any NumPy type without objects.

    Raises:
        ConfigError: The shape is empty or negative, or the type holds objects.
        TransportError: The kernel has not so much memory to share.
    """
    kind = np.dtype(dtype)
    extents = (shape,) if isinstance(shape, int) else tuple(shape)
    if kind.hasobject:
        raise ConfigError(f"dtype={kind}: expected a type without Python objects", operation="empty")
    if any(extent < 0 for extent in extents) or math.prod(extents) * kind.itemsize == 0:
        raise ConfigError(f"shape={shape!r}: expected at least one element of at least one byte", operation="empty")
    return core.shared_bytes(math.prod(extents) * kind.itemsize).view(kind).reshape(extents)


def default_directory() -> str:
    """Where engines of this user meet for the shm lane: $XDG_RUNTIME_DIR/kvdirect, else /tmp/kvdirect-UID."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and _is_ours(Path(runtime)):
        return str(Path(runtime) / "kvdirect")
    return f"/tmp/kvdirect-{os.geteuid()}"  # noqa: S108  (the core refuses it unless it is ours, with mode 0700)


def _is_ours(path: Path) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
