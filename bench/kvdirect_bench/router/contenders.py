# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The routers that are measured, each a process group of its own before the same two engines."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kvdirect.harness.processes import ManagedProcess, free_port

if TYPE_CHECKING:
    from collections.abc import Sequence

OTHER = "vllm-router"
_TICKS = os.sysconf("SC_CLK_TCK")


def engine(role: str, logs: Path, events: int) -> ManagedProcess:
    """A fake engine, not started."""
    port = free_port()
    command = [sys.executable, "-m", "kvdirect_bench.router.engine", str(port), str(events)]
    return ManagedProcess(f"{role} engine", command, f"http://127.0.0.1:{port}", logs / f"{role}.log")


def ours(workers: int, prefill: str, decode: str, logs: Path) -> ManagedProcess:
    """`kvdirect proxy` with so many processes."""
    port = free_port()
    command = [sys.executable, "-m", "kvdirect", "proxy", "--port", str(port), "--log-level", "warning"]
    command += ["--prefill", prefill, "--decode", decode, "--max-in-flight-per-instance", "4096"]
    if workers > 1:
        command += ["--workers", str(workers)]
    name = name_of(workers)
    return ManagedProcess(name, command, f"http://127.0.0.1:{port}", logs / f"{name}.log", wanted_status="ok")


def theirs(program: Path, prefill: str, decode: str, logs: Path) -> ManagedProcess:
    """`vllm-router`, told to log as little as ours."""
    port = free_port()
    command = [str(program), "--vllm-pd-disaggregation", "--prefill", prefill, "--decode", decode]
    command += ["--port", str(port), "--prometheus-port", str(free_port()), "--log-level", "warning"]
    return ManagedProcess(OTHER, command, f"http://127.0.0.1:{port}", logs / f"{OTHER}.log")


def name_of(workers: int) -> str:
    """What ours is called."""
    return "kvdirect" if workers == 1 else f"kvdirect x{workers}"


def port_of(process: ManagedProcess) -> int:
    """Where it listens."""
    return int(process.url.rpartition(":")[2])


def processor_seconds(group: int) -> float:
    """Processor time that a process group's members have used."""
    return sum(_seconds(stat) for stat in _stats(group))


def _stats(group: int) -> Sequence[list[str]]:
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            words = file.read_text().rpartition(")")[2].split()  # from the state on (proc(5))
            if int(words[2]) == group:
                found.append(words)
    return found


def _seconds(words: list[str]) -> float:
    return (int(words[11]) + int(words[12])) / _TICKS
