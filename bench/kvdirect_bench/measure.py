# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Every scene of a command line, measured."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from . import header
from .backends.base import Settings
from .errors import BenchUsageError
from .interleave import race
from .report import Report
from .rows import make_rows
from .storage import available

if TYPE_CHECKING:
    from collections.abc import Callable

    from .contenders import Contender
    from .options import Options
    from .process import Host
    from .workload import Scene

# What the rest of the machine may keep: the kernel's buffers and whatever else runs.
_MOST_MEMORY = 0.8
# Load for each CPU from which on neighbours decide what is measured.
_BUSY = 0.5


def measure(options: Options, hosts: tuple[Host, Host], say: Callable[[str], None]) -> Report:
    """Run every scene; owners on the first host, readers on the second.

    Raises:
        BenchError: One of the engines failed, or there is not enough memory.
    """
    for scene in options.scenes:
        _check_memory(scene, options)
    report = Report(header.describe(options, sys.argv))
    if report.header["load"] > _BUSY * report.header["cpus"]:
        say(
            f"this machine is busy (load {report.header['load']}, {report.header['cpus']} CPUs): so will the figures be"
        )
    versions: dict[str, str] = {}
    for number, scene in enumerate(options.scenes, 1):
        results = race(
            options.contenders,
            hosts,
            scene,
            lambda contender: _settings(contender, options),
            rounds=options.rounds,
            warmup=options.warmup,
            say=_speaking_of(scene, number, options, say),
        )
        report.rows += make_rows(scene, results)
        versions |= header.peers(results)
    report.header["versions"] = versions
    return report


def _speaking_of(scene: Scene, number: int, options: Options, say: Callable[[str], None]) -> Callable[[str], None]:
    place = f"scene {number} of {len(options.scenes)}, {scene.units} x {scene.unit_bytes} bytes"
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


def _check_memory(scene: Scene, options: Options) -> None:
    sides = scene.memory_bytes(scene.reader)
    if options.mode == "loopback":
        sides += scene.memory_bytes(scene.owner)
    free = available(scene)
    if sides * len(options.contenders) > _MOST_MEMORY * free:
        raise BenchUsageError(
            f"{len(options.contenders)} engines with {sides >> 20} MiB each do not fit into the "
            f"{free >> 20} MiB that are free; take fewer --vs or --lanes, or smaller pulls"
        )
