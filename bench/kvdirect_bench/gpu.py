# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The GPU that memory lies on with `--device cuda`, by way of PyTorch; imported by nothing that does without one."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import Any, TypeAlias

from .errors import BenchError

# PyTorch's tensors and modules are not typed here.
Tensor: TypeAlias = Any

_QUERY = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
_SECONDS = 20.0


def require_torch() -> Any:  # noqa: ANN401  (a module)
    """PyTorch, with a GPU that it can use.

    Raises:
        BenchError: There is none; says which of the two is missing, and for which Python.
    """
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        raise BenchError(
            f"--device cuda needs PyTorch, which {sys.executable} cannot import ({error}); "
            "install a torch that is built for CUDA there"
        ) from error
    if torch.version.cuda is None:
        raise BenchError(
            f"--device cuda: the PyTorch {torch.__version__} of {sys.executable} is not built for CUDA; "
            "install one that is"
        )
    if not torch.cuda.is_available():
        raise BenchError(
            f"--device cuda: PyTorch {torch.__version__} finds no GPU; see whether nvidia-smi lists one, "
            "and CUDA_VISIBLE_DEVICES"
        )
    return torch


def allocate(size: int) -> Tensor:
    """Bytes on the first visible GPU, in an allocation of their own that other processes can map."""
    torch = require_torch()
    return torch.empty(size, dtype=torch.uint8, device="cuda")


def synchronize() -> None:
    """Wait until the GPU has done what this process gave it."""
    require_torch().cuda.synchronize()


def is_stand_in() -> bool:
    """Whether it is none: what tests have for PyTorch says so."""
    return bool(getattr(require_torch(), "is_stand_in", False))


def free_bytes() -> int:
    """Memory of the GPU that can be had."""
    free, _ = require_torch().cuda.mem_get_info()
    return int(free)


def multiprocessors() -> int:
    """How many of them the GPU has."""
    return int(require_torch().cuda.get_device_properties(0).multi_processor_count)


def describe() -> str:
    """The GPU, its driver and the CUDA that PyTorch is built for."""
    torch = require_torch()
    return f"{torch.cuda.get_device_name(0)}, driver {_driver()}, PyTorch {torch.__version__}"


def _driver() -> str:
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, timeout=_SECONDS, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.splitlines()[0].strip() if done.stdout else "unknown"
