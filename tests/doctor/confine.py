# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Program: confine this process in one way, for real, and become the command that follows.

confine.py WAY COMMAND...  where WAY is one of

    no-process-read     a seccomp filter answers EPERM to process_vm_readv, as some containers' do; needs no privilege
    small-shm           a mount namespace of its own with 1 MiB in /dev/shm; needs CAP_SYS_ADMIN
    no-shm              the same with a /dev/shm that nobody may write to
    small-files         files of at most 1 MiB, which is true of memfd_create as well
    few-files           12 open files
    hardly-any-files    7 open files
    no-ptrace           no CAP_SYS_PTRACE, for the commands that follow as well
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
import sys

_PROCESS_VM_READV = {"x86_64": 310, "aarch64": 270}
_PR_CAPBSET_DROP, _CAP_SYS_PTRACE = 24, 19
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _FILTER = 22, 38, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EPERM = 1
_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_REC, _MS_PRIVATE = 1, 16384, 1 << 18
_LIBC = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise SystemExit(f"confine: {what}: {os.strerror(code)}")


def no_process_read() -> None:
    number = _PROCESS_VM_READV[platform.machine()]
    steps = (
        (_LOAD, 0, 0, 0),  # the system call's number
        (_JUMP_IF_EQUAL, 0, 1, number),
        (_RETURN, 0, 0, _ERRNO | _EPERM),
        (_RETURN, 0, 0, _ALLOW),
    )
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    program = _Program(len(steps), code)
    zero = ctypes.c_ulong(0)
    _check(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero), "no_new_privs")
    _check(_LIBC.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_FILTER), ctypes.byref(program), zero, zero), "seccomp")


def _shm(options: bytes, flags: int = 0) -> None:
    _check(_LIBC.unshare(_CLONE_NEWNS), "unshare a mount namespace")
    _check(_LIBC.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None), "make mounts private")
    _check(_LIBC.mount(b"tmpfs", b"/dev/shm", b"tmpfs", ctypes.c_ulong(flags), options), "mount /dev/shm")


def no_ptrace() -> None:
    """Exec gives root all that is in the bounding set; others do not have it, and may not change the set."""
    if os.geteuid() == 0:
        _check(_LIBC.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(_CAP_SYS_PTRACE)), "drop CAP_SYS_PTRACE")


WAYS = {
    "no-process-read": no_process_read,
    "small-shm": lambda: _shm(b"size=1m"),
    "no-shm": lambda: _shm(b"size=2g", _MS_RDONLY),
    "small-files": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    "no-ptrace": no_ptrace,
    "hardly-any-files": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (7, 7)),
    "few-files": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12)),
}

if __name__ == "__main__":
    WAYS[sys.argv[1]]()
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606  (no shell is what we want)
