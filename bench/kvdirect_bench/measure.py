# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Every workload of a command line, measured."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from . import header
from .backends.base import Settings
from .errors import BenchUsageError
from .interleave import interleave
from .report import Report
from .rows import make_rows
from .storage import available

if TYPE_CHECKING:
    from collections.abc import Callable

    from .contenders import Contender
    from .options import Options
    from .process import Host
    from .workload import Workload

# What the rest of the machine may keep: the kernel's buffers and whatever else runs.
_MOST_MEMORY = 0.8
# Load for each CPU from which on neighbours decide what is measured.
_BUSY = 0.5


def measure(options: Options, hosts: tuple[Host, Host], say: Callable[[str], None]) -> Report:
    """Run every workload; owners on the first host, readers on the second.

    Raises:
        BenchError: One of the engines failed, or there is not enough memory.
    """
    for workload in options.workloads:
        _check_memory(workload, options)
    report = Report(header.describe(options, sys.argv))
    if report.header["load"] > _BUSY * report.header["cpus"]:
        say(
            f"this machine is busy (load {report.header['load']}, {report.header['cpus']} CPUs): so will the figures be"
        )
    versions: dict[str, str] = {}
    for number, workload in enumerate(options.workloads, 1):
        results = interleave(
            options.contenders,
            hosts,
            workload,
            lambda contender: _settings(contender, options),
            rounds=options.rounds,
            warmup=options.warmup,
            say=_speaking_of(workload, number, options, say),
        )
        report.rows += make_rows(workload, results)
        versions |= header.versions(results)
    report.header["versions"] = versions
    return report


def _speaking_of(
    workload: Workload, number: int, options: Options, say: Callable[[str], None]
) -> Callable[[str], None]:
    place = f"workload {number} of {len(options.workloads)}, {workload.units} x {workload.unit_bytes} bytes"
    return lambda text: say(f"{place}: {text}")


def _settings(contender: Contender, options: Options) -> Settings:
    return Settings(
        variant=contender.variant,
        listen=options.listen,
        copy_threads=contender.copy_threads or options.copy_threads,
        cuda_copy=contender.cuda_copy,
        cuda_sms=options.cuda_sms,
        corrupt=options.corrupt,
    )


def _check_memory(workload: Workload, options: Options) -> None:
    sides = workload.memory_bytes(workload.reader)
    if options.mode == "loopback":
        sides += workload.memory_bytes(workload.owner)
    free = available(workload)
    if sides * len(options.contenders) > _MOST_MEMORY * free:
        raise BenchUsageError(
            f"{len(options.contenders)} engines with {sides >> 20} MiB each do not fit into the "
            f"{free >> 20} MiB that are free; take fewer --vs or --lanes, or smaller pulls"
        )
