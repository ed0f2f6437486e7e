# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What an engine holds: threads, file descriptors and memory of its processes, cache blocks, leases."""

from __future__ import annotations

import contextlib
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from churn_engines import POLICIES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from churn_client import Site
    from engines import Engine

ENDED = "vllm:kvdirect_num_ended_leases_total"
# Beyond one term: vLLM publishes what it holds with its next step, on a machine that may be busy.
SLACK = 20.0
# What is still held then is never given back. The checks ask for what is held, so that they say the same of a machine
# with much else to do.
GIVEN_UP = 240.0
# A reader connects in up to four threads; another one starts when several owners are new at once, warm-up or not.
LATE_DIALLERS = 3


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


def workers(found: Mapping[str, Holdings]) -> Counter[str]:
    """How many of these processes are a rank of their own, by engine; the keys are as `churn.steady` makes them."""
    return Counter(key.split()[0] for key in found if " VLLM::Worker" in key)


def by_rank(reader: Engine) -> dict[int, Counter[str]]:
    """How the pulls of each rank ended."""
    found: dict[int, Counter[str]] = {}
    for record in reader.pulls():
        found.setdefault(record["rank"], Counter())[record["status"]] += 1
    return dict(sorted(found.items()))


def served(reader: Engine) -> int:
    """Jobs whose pulls worked; those with several samples have several requests, but one lease."""
    pulled = [record["request_id"] for record in reader.pulls() if record["status"] == "ok"]
    return len({found[0] for request_id in pulled if (found := re.search(r"[a-z_]+-\d{5}-", request_id))})


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


def everyone(site: Site) -> dict[str, Engine]:
    readers = {f"decode-{policy}": engine for policy, engine in zip(POLICIES, site.readers, strict=True)}
    return {"prefill": site.owner, **readers}


def settle(site: Site) -> tuple[bool, float]:
    """Wait until no lease and no block is held, however long that takes: whether within a term, and the seconds."""
    began = time.monotonic()
    while True:
        seen = [counts(engine) for engine in everyone(site).values()]
        seconds = time.monotonic() - began
        if all(engine.held == 0 and engine.usage == 0 for engine in seen):
            return seconds <= site.first_term + SLACK, seconds
        if seconds > GIVEN_UP:
            return False, seconds
        time.sleep(0.25)


def steady(site: Site, wanted: dict[str, Holdings] | None = None) -> dict[str, Holdings]:
    """Everybody's processes once they keep still; with `wanted`, once they hold no more threads and files than that."""
    before: dict[str, Holdings] = {}
    deadline = time.monotonic() + GIVEN_UP
    while True:
        now = {f"{who} {pid}": had for who, engine in everyone(site).items() for pid, had in holdings(engine).items()}
        still = all(same_size(now.get(key), before.get(key)) for key in now | before)
        back = wanted is None or not more(now, wanted)
        if (still and back) or time.monotonic() > deadline:
            return now
        before = now
        time.sleep(1)


def same_size(one: Holdings | None, other: Holdings | None) -> bool:
    return (
        one is not None and other is not None and (one.threads, one.descriptors) == (other.threads, other.descriptors)
    )


def more(now: dict[str, Holdings], before: dict[str, Holdings]) -> list[str]:
    """Processes that are new, or have more threads or descriptors than before."""

    def grown(key: str, held: Holdings) -> bool:
        threads = before[key].threads + (LATE_DIALLERS if key.startswith("decode") else 0)
        return held.threads > threads or held.descriptors > before[key].descriptors

    return [key for key, held in now.items() if key not in before or grown(key, held)]
