# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What an engine holds: threads, file descriptors and memory of its processes, cache blocks, leases."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engines import Engine

ENDED = "vllm:kvdirect_num_ended_leases_total"


@dataclass(frozen=True, slots=True)
class Holdings:
    """Of one process, from /proc: threads, open file descriptors, resident bytes.

    `resident` is what the process made, in anonymous and shared memory; `mapped` is pages of files (libraries), which
    the kernel takes and brings back as it sees fit. Together they are VmRSS.
    """

    threads: int
    descriptors: int
    resident: int
    mapped: int


def holdings(engine: Engine) -> dict[str, Holdings]:
    """Of every process in the engine's group, by name and pid."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # After the name in brackets: state, parent, group. (proc(5))
            name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
            state, _parent, group = rest.split()[:3]
            if int(group) != engine.process.group or state == "Z":
                continue
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
            found[f"{name}-{folder.name}"] = Holdings(
                threads=int(status["Threads"]),
                descriptors=len(list((folder / "fd").iterdir())),
                resident=(int(status["RssAnon"].split()[0]) + int(status["RssShmem"].split()[0])) << 10,
                mapped=int(status["RssFile"].split()[0]) << 10,
            )
    return found


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one engine, from /metrics."""

    usage: float
    preemptions: int
    local_hits: int
    external: int
    granted: int
    ended: dict[str, int]
    failures: dict[str, int]
    pulls: dict[str, int]

    @property
    def held(self) -> int:
        """Leases that have not ended."""
        return self.granted - sum(self.ended.values())


def counts(engine: Engine) -> Counts:
    samples = engine.samples()

    def number(name: str, **labels: str) -> int:
        return int(sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items()))

    def by(name: str, label: str) -> dict[str, int]:
        found: Counter[str] = Counter()
        for sample in samples:
            if sample.name == name:
                found[sample.labels[label]] += int(sample.value)
        return dict(found)

    source = "vllm:prompt_tokens_by_source_total"
    return Counts(
        usage=sum(s.value for s in samples if s.name == "vllm:kv_cache_usage_perc"),
        preemptions=number("vllm:num_preemptions_total"),
        local_hits=number(source, source="local_cache_hit"),
        external=number(source, source="external_kv_transfer"),
        granted=number("vllm:kvdirect_num_granted_leases_total"),
        ended=by(ENDED, "reason"),
        failures=by("vllm:kvdirect_num_failed_transfers_total", "reason"),
        pulls=by("vllm:kvdirect_bytes_transferred_count", "lane"),
    )
