# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Program: read memory of this process and of the one that is named, and say what the kernel answered.

Arguments: process id, address, length. It reads its parent: the kernel may let a parent read its children where it lets
nobody else, and engines are not each other's parents.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys


class _Piece(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _read(pid: int, address: int, length: int) -> tuple[int, bytes]:
    """process_vm_readv: errno (0 if all is well), and the bytes."""
    buffer = ctypes.create_string_buffer(length)
    local = _Piece(ctypes.addressof(buffer), length)
    remote = _Piece(address, length)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.process_vm_readv.restype = ctypes.c_ssize_t
    one = ctypes.c_ulong(1)
    got = libc.process_vm_readv(
        ctypes.c_int(pid), ctypes.byref(local), one, ctypes.byref(remote), one, ctypes.c_ulong(0)
    )
    return (ctypes.get_errno(), b"") if got < 0 else (0, buffer.raw[:got])


def main() -> None:
    """Read, and print one JSON object: errno of reading ourselves, errno of reading the other, its bytes in hex."""
    pid, address, length = map(int, sys.argv[1:])
    own = ctypes.create_string_buffer(b"own", length)
    own_errno, _ = _read(os.getpid(), ctypes.addressof(own), length)
    errno, data = _read(pid, address, length)
    print(json.dumps({"own_errno": own_errno, "errno": errno, "data": data.hex()}))


if __name__ == "__main__":
    main()
