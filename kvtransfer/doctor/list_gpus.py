# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Program: what the NVIDIA driver says about the GPUs here, without the CUDA toolkit. No context is made."""

from __future__ import annotations

import ctypes
import json
from typing import Any

_NO_DEVICE = 100
_NATIVE_ATOMICS = 3  # CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED


def _examine() -> dict[str, Any]:
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        rows: dict[str, Any] = {"devices": [], "peer_access": [], "nvlink": []}
        return {"library": False, "error": str(error), "code": 0, "driver": 0, **rows}
    code = int(cuda.cuInit(0))
    count = ctypes.c_int(0)
    if code == 0:
        code = int(cuda.cuDeviceGetCount(ctypes.byref(count)))
    handles = [_told(cuda.cuDeviceGet, ctypes.c_int(0), index) for index in range(count.value)]
    return {
        "library": True,
        "error": _error_name(cuda, code) if code not in {0, _NO_DEVICE} else "",
        "code": code,
        "driver": _told(cuda.cuDriverGetVersion, ctypes.c_int(0)).value,
        "devices": [
            {"name": _name(cuda, one), "bytes": _told(cuda.cuDeviceTotalMem_v2, ctypes.c_size_t(0), one).value}
            for one in handles
        ],
        "peer_access": [[one is other or _peers(cuda, one, other) for other in handles] for one in handles],
        "nvlink": [[one is not other and _linked(cuda, one, other) for other in handles] for one in handles],
    }


def _told(function: Any, value: Any, *arguments: object) -> Any:  # noqa: ANN401  (ctypes)
    """What a function of the driver writes to its first argument; `value` as it was where it fails."""
    function(ctypes.byref(value), *arguments)
    return value


def _name(cuda: ctypes.CDLL, handle: ctypes.c_int) -> str:
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGetName(name, len(name), handle)
    return name.value.decode(errors="replace")


def _peers(cuda: ctypes.CDLL, one: ctypes.c_int, other: ctypes.c_int) -> bool:
    return bool(_told(cuda.cuDeviceCanAccessPeer, ctypes.c_int(0), one, other).value == 1)


def _linked(cuda: ctypes.CDLL, one: ctypes.c_int, other: ctypes.c_int) -> bool:
    """The driver says whether atomics work between two GPUs, which they do over NVLink and not over PCIe."""
    return bool(_told(cuda.cuDeviceGetP2PAttribute, ctypes.c_int(0), _NATIVE_ATOMICS, one, other).value == 1)


def _error_name(cuda: ctypes.CDLL, code: int) -> str:
    name = ctypes.c_char_p()
    known = cuda.cuGetErrorName(code, ctypes.byref(name)) == 0 and name.value
    return name.value.decode() if known and name.value else f"CUDA error {code}"


if __name__ == "__main__":
    print(json.dumps(_examine()))
