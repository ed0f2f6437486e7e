# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Churn: a seeded mix of requests through real engines, and whether anything is wrong or left behind afterwards.

    python tests/vllm/churn.py --requests 200

One engine alone, one that prefills, and two that decode, one with each kv_load_failure_policy and lane; their caches
are small, so that requests are preempted. A JSON summary goes to stdout, progress to stderr; the exit status is 0 if
every check holds. docs/reliability.md explains the checks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
from churn_accounts import Holdings, counts, holdings
from churn_client import Answer, Site, reference, run
from churn_mix import FAILING, MAX_LENGTH, Job, make_mix
from engines import HOST_LANE, ONE_PROCESS, Engine, Spec
from pool import EnginePool

from kvdirect.harness.model import make_tiny_llama
from kvdirect.harness.processes import free_port

USUAL = (("--max-model-len", str(MAX_LENGTH)), ("--max-num-batched-tokens", "64"))
# What is freed goes back to the kernel, so that resident memory says what is held. With glibc's own choice vLLM alone,
# without a connector, grows for hundreds of requests before its heap stops getting more fragmented.
RETURN_FREED = (("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_THRESHOLD_", "131072"), ("MALLOC_TRIM_THRESHOLD_", "131072"))
ENVIRONMENT = ONE_PROCESS + RETURN_FREED
# Blocks of 128 KiB. Where prompts are prefilled, there is room for what leases hold that nobody completes; where they
# are decoded, there is barely more than the longest needs, and requests preempt each other. Aggregated, for eight of
# them. No cache is so large that a warm-up leaves parts of it untouched: resident memory counts only pages that were.
PREFILL_CACHE, DECODE_CACHE, AGGREGATED_CACHE = (
    (("--kv-cache-memory-bytes", str(blocks << 17)), *USUAL) for blocks in (96, 36, 128)
)
MAX_GROWTH = 32 << 20
# Beyond one term: vLLM publishes what it holds with its next step, on a machine that may be busy.
SLACK = 20.0
# What is still held then is never given back. The checks ask for what is held, so that they say the same of a machine
# with much else to do.
GIVEN_UP = 240.0
POLICIES = {"fail": HOST_LANE, "recompute": "message"}
# A reader connects in up to four threads; another one starts when several owners are new at once, warm-up or not.
LATE_DIALLERS = 3


@dataclass(frozen=True, slots=True)
class Options:
    requests: int
    warm_up: int
    seed: int
    concurrency: int
    first_term: float


@dataclass(slots=True)
class Results:
    """What the clients saw."""

    kinds: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def add(self, job: Job, outcome: str, complaint: str = "") -> None:
        self.kinds.setdefault(job.kind, Counter())[outcome] += 1
        if complaint:
            self.wrong.append(f"{job.name} ({len(job.prompt)} tokens, at {list(POLICIES)[job.reader]}): {complaint}")


def engines_of(options: Options) -> list[Spec]:
    """One engine alone, the owner, and a reader for each policy."""
    terms = (("lease_first_term", str(options.first_term)), ("lease_term", str(options.first_term)))
    specs = [
        Spec(options=AGGREGATED_CACHE, environment=ENVIRONMENT),
        Spec("kv_producer", extra=terms, options=PREFILL_CACHE, environment=ENVIRONMENT),
    ]
    for policy, lane in POLICIES.items():
        extra = (*terms, ("lanes", json.dumps([lane])), ("handshake_timeout", "10"))
        specs.append(Spec("kv_consumer", extra=extra, options=DECODE_CACHE, policy=policy, environment=ENVIRONMENT))
    return specs


def start(pool: EnginePool, options: Options) -> Site:
    aggregated, owner, *readers = pool.get(*engines_of(options))
    return Site(aggregated, owner, readers, options.first_term, free_port())


async def send(site: Site, jobs: list[Job], concurrency: int) -> Results:
    """All jobs, so many at a time, each compared with what the aggregated engine says."""
    results, calm = Results(), asyncio.Semaphore(concurrency)
    done = 0

    async def one(job: Job) -> None:
        nonlocal done
        try:
            answer = await run(site, job, calm)
            expected = await reference(site, job) if answer.status == httpx.codes.OK else []
        except (httpx.HTTPError, TimeoutError, ValueError, LookupError) as error:
            results.add(job, "broken", repr(error))
        else:
            judge(site, results, job, answer, expected)
        done += 1
        if done % 20 == 0 or done == len(jobs):
            say(f"{done} of {len(jobs)} requests, {len(results.wrong)} wrong")

    await asyncio.gather(*map(one, jobs))
    return results


def judge(site: Site, results: Results, job: Job, answer: Answer, expected: list[int]) -> None:
    must_fail = job.kind in FAILING and list(POLICIES)[job.reader] == "fail"
    if answer.left:
        results.add(job, "left")
    elif answer.status != httpx.codes.OK:
        clean = must_fail and answer.status == httpx.codes.INTERNAL_SERVER_ERROR
        if not clean and ran_out(site, job, answer):
            results.add(job, "ran out")
            return
        results.add(job, "failed", "" if clean else f"status {answer.status}: {answer.error[:300]}")
    elif must_fail:
        results.add(job, "served", "its load cannot have worked, and the policy is fail")
    else:
        equal = all(sample == expected for sample in answer.samples)
        results.add(job, "equal" if equal else "unequal", "" if equal else f"{answer.samples} is not {expected}")


def ran_out(site: Site, job: Job, answer: Answer) -> bool:
    """On a machine with too much to do a lease can end before decode comes to it: it is promised for one term."""
    reasons = [record["reason"] for record in site.readers[job.reader].pulls(job.name)]
    return answer.age >= site.first_term and any(reason.startswith("LeaseExpired") for reason in reasons)


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


def everyone(site: Site) -> dict[str, Engine]:
    readers = {f"decode-{policy}": engine for policy, engine in zip(POLICIES, site.readers, strict=True)}
    return {"aggregated": site.aggregated, "prefill": site.owner, **readers}


def churn(pool: EnginePool, options: Options) -> dict[str, Any]:
    """Run it all; the summary, whose "failed_checks" is empty if all is well."""
    site = start(pool, options)
    say(f"engines are ready; warm-up of {options.warm_up}")
    began = time.monotonic()
    readers = len(site.readers)
    warm = asyncio.run(send(site, make_mix(options.warm_up, seed=options.seed, readers=readers), options.concurrency))
    settled, _ = settle(site)
    before = steady(site)
    say(f"warm-up {'settled' if settled else 'did NOT settle'}; {options.requests} requests")
    jobs = make_mix(options.requests, seed=options.seed, readers=readers, first=options.warm_up)
    results = asyncio.run(send(site, jobs, options.concurrency))
    settled, settling = settle(site)
    after = steady(site, before)
    return summary(site, options, warm, results, before, after) | {
        "settled_within_a_term": settled,
        "settle_seconds": round(settling, 1),
        "seconds": round(time.monotonic() - began, 1),
    }


def summary(
    site: Site,
    options: Options,
    warm: Results,
    results: Results,
    before: dict[str, Holdings],
    after: dict[str, Holdings],
) -> dict[str, Any]:
    seen = {who: counts(engine) for who, engine in everyone(site).items()}
    healthy = {who: engine.healthy() for who, engine in everyone(site).items()}
    grown = {key: held.resident - before[key].resident for key, held in after.items() if key in before}
    preemptions = {who: engine.preemptions for who, engine in seen.items()}
    wrong = warm.wrong + results.wrong
    checks = {
        "tokens and statuses": not wrong,
        "leases": all(engine.held == 0 for engine in seen.values()),
        "kv usage": all(engine.usage == 0 for engine in seen.values()),
        "processes, threads and descriptors": not more(after, before) and after.keys() == before.keys(),
        "resident memory": all(growth < MAX_GROWTH for growth in grown.values()),
        "preempted": any(count > 0 for who, count in preemptions.items() if who != "aggregated"),
        "local hits": seen["prefill"].local_hits > 0 and any(seen[f"decode-{p}"].local_hits for p in POLICIES),
        "pulled": all(seen[f"decode-{policy}"].pulls.get(lane) for policy, lane in POLICIES.items()),
        "healthy": all(healthy.values()),
    }
    return {
        "failed_checks": [name for name, holds in checks.items() if not holds],
        **asdict(options),
        "kinds": {kind: dict(outcomes) for kind, outcomes in sorted(results.kinds.items())},
        "mismatches": len(wrong),
        "wrong": wrong[:10],
        "leases": {"granted": seen["prefill"].granted, "held": seen["prefill"].held, "ended": seen["prefill"].ended},
        "kv_usage": {who: engine.usage for who, engine in seen.items()},
        "preemptions": preemptions,
        "local_hit_tokens": {who: engine.local_hits for who, engine in seen.items()},
        "pulls": {who: engine.pulls for who, engine in seen.items() if engine.pulls},
        "failed_transfers": {who: engine.failures for who, engine in seen.items() if engine.failures},
        "thread_deltas": {key: held.threads - before[key].threads for key, held in after.items() if key in before},
        "descriptor_deltas": {
            key: held.descriptors - before[key].descriptors for key, held in after.items() if key in before
        },
        "rss_mib_deltas": {key: round(growth / 2**20, 1) for key, growth in grown.items()},
        "mapped_file_mib_deltas": {
            key: round((held.mapped - before[key].mapped) / 2**20, 1) for key, held in after.items() if key in before
        },
        "new_processes": sorted(after.keys() - before.keys()),
        "ended_processes": sorted(before.keys() - after.keys()),
        "healthy": healthy,
    }


def say(text: str) -> None:
    print(f"churn: {text}", file=sys.stderr, flush=True)


def leave(number: int, _frame: object) -> None:
    """End with the engines, and say why there is no summary."""
    say(f"ended by {signal.Signals(number).name}")
    sys.exit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--requests", type=int, default=200, help="after the warm-up (default: %(default)s)")
    # vLLM keeps what it prepared for each shape of a batch, without a connector too; 200 requests have met most shapes.
    parser.add_argument("--warm-up", type=int, default=200, help="requests of the same mix (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--concurrency", type=int, default=8, help="requests at a time (default: %(default)s)")
    parser.add_argument("--first-term", type=float, default=15.0, help="of a lease, seconds (default: %(default)s)")
    given = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # also in a shell's background, where SIGINT would be ignored
        signal.signal(number, leave)
    with tempfile.TemporaryDirectory(prefix="kvdirect-churn-") as folder:
        pool = EnginePool(make_tiny_llama(Path(folder) / "model"), Path(folder))
        try:
            found = churn(pool, Options(**vars(given)))
        finally:
            pool.stop_all()
    print(json.dumps(found, indent=2))
    return 1 if found["failed_checks"] else 0


if __name__ == "__main__":
    sys.exit(main())
