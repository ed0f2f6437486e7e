# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Whether one process here may read another's memory: what the cma lane needs."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
from dataclasses import dataclass

from .procfs import number, read, status_fields
from .programs import ProgramError, ask
from .report import Check, Status

NAME = "process_read"
_CAP_SYS_PTRACE = 19
_SECCOMP_FILTER = "2"
_LENGTH = 32
_CONTAINER = (
    "in Docker `--cap-add SYS_PTRACE` or `--security-opt seccomp=unconfined`, "
    "in Kubernetes securityContext.capabilities.add: [SYS_PTRACE], or a seccomp profile that allows process_vm_readv"
)
_FALLBACK = "pulls on this host take the message lane until then"


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides about reading another process.

    Attributes:
        yama: kernel.yama.ptrace_scope, None where the kernel has no Yama.
        seccomp: This process runs under a system call filter.
        capable: It has CAP_SYS_PTRACE.
    """

    yama: int | None
    seccomp: bool
    capable: bool


def rules(status: str, yama: str) -> Rules:
    """From the text of /proc/self/status and of kernel.yama.ptrace_scope."""
    fields = status_fields(status)
    effective = int(fields.get("CapEff") or "0", 16)
    return Rules(number(yama), fields.get("Seccomp") == _SECCOMP_FILTER, bool(effective >> _CAP_SYS_PTRACE & 1))


def check_process_read() -> Check:
    """Let another process read a nonce from this one with process_vm_readv, the way readers do."""
    here = rules(read("/proc/self/status"), read("/proc/sys/kernel/yama/ptrace_scope"))
    nonce = secrets.token_bytes(_LENGTH)
    memory = ctypes.create_string_buffer(nonce, _LENGTH)
    facts: dict[str, object] = {
        "works": False,
        "errno": None,
        "own_errno": None,
        "yama_ptrace_scope": here.yama,
        "seccomp_filter": here.seccomp,
        "cap_sys_ptrace": here.capable,
    }
    try:
        told = ask("read_process", str(os.getpid()), str(ctypes.addressof(memory)), str(_LENGTH))
        own, other, data = int(told["own_errno"]), int(told["errno"]), bytes.fromhex(told["data"])
    except (ProgramError, KeyError, ValueError) as error:
        remedy = f"allow process_vm_readv: {_CONTAINER}; {_FALLBACK}"
        return Check(NAME, "warning", f"the process that tried it failed: {error}", remedy, facts)
    facts |= {"works": data == nonce, "errno": _name(other), "own_errno": _name(own)}
    status, summary, remedy = judge(own, other, data == nonce, here)
    return Check(NAME, status, summary, remedy, facts)


def judge(own: int, other: int, right: bool, here: Rules) -> tuple[Status, str, str]:
    """Status, summary and remedy.

    Args:
        own: errno of a process that read itself, which every rule but a system call filter allows.
        other: errno of reading another process of the same user; 0 if it went well.
        right: The bytes were those that are there.
        here: The rules in force.
    """
    if other == 0 and right:
        return "ok", "a process of this user can read another's memory (process_vm_readv)", ""
    refused = f"process_vm_readv is refused ({_name(other) or 'wrong bytes'})"
    if own == errno.ENOSYS and not here.seccomp:
        remedy = f"use a kernel with CONFIG_CROSS_MEMORY_ATTACH; {_FALLBACK}"
        return "warning", f"{refused}: the kernel does not have it", remedy
    if own != 0:
        why = "a seccomp filter forbids it" if here.seccomp else "even for a process's own memory"
        return "warning", f"{refused}: {why}", f"allow it: {_CONTAINER}; {_FALLBACK}"
    if here.yama and not here.capable:
        way = "reboot without it" if here.yama > 2 else "sysctl -w kernel.yama.ptrace_scope=0"
        summary = f"{refused}: kernel.yama.ptrace_scope is {here.yama}"
        return "warning", summary, f"{way}, or give engines CAP_SYS_PTRACE ({_CONTAINER}); {_FALLBACK}"
    remedy = (
        "run engines as the same user with the same capabilities and with core dumps permitted, and look for a "
        f"security module that forbids ptrace (SELinux: setsebool deny_ptrace off); {_FALLBACK}"
    )
    return "warning", f"{refused}, although no filter and no Yama setting forbids it", remedy


def _name(code: int) -> str | None:
    return errno.errorcode.get(code, str(code)) if code else None
