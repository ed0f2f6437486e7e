# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Churn: a seeded mix of requests through real engines, and whether anything is wrong or left behind afterwards.

    python tests/vllm/churn.py --requests 200 --model window --ranks 1-2

First one engine alone, which says what is right; then one that prefills, and two that decode, one with each
kv_load_failure_policy and lane; their caches are small, so that requests are preempted. A JSON summary goes to stdout,
progress to stderr; the exit status is 0 if every check holds. docs/reliability.md explains the checks.
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
from typing import TYPE_CHECKING, Any

import httpx
from churn_accounts import Holdings, by_rank, counts, everyone, more, served, settle, steady, workers
from churn_client import Answer, Site, run
from churn_engines import MODELS, POLICIES, aggregated_of, engines_of
from churn_mix import FAILING, Job, make_mix
from churn_reference import Reference, reference
from pool import EnginePool

from kvdirect.harness.processes import free_port

if TYPE_CHECKING:
    from engines import Spec

MAX_GROWTH = 32 << 20
# Of all requests; see churn_reference.py.
MAX_TIES = 0.02


@dataclass(frozen=True, slots=True)
class Options:
    requests: int
    warm_up: int
    seed: int
    concurrency: int
    first_term: float
    model: str = "llama"
    ranks: tuple[int, int] = (1, 1)  # of the owner and of each reader

    @property
    def jobs(self) -> tuple[list[Job], list[Job]]:
        """The warm-up, and what is looked at."""
        return (
            make_mix(self.warm_up, seed=self.seed, readers=len(POLICIES)),
            make_mix(self.requests, seed=self.seed, readers=len(POLICIES), first=self.warm_up),
        )


@dataclass(slots=True)
class Results:
    """What the clients saw."""

    kinds: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def add(self, job: Job, outcome: str, complaint: str = "") -> None:
        self.kinds.setdefault(job.kind, Counter())[outcome] += 1
        if complaint:
            self.wrong.append(f"{job.name} ({len(job.prompt)} tokens, at {list(POLICIES)[job.reader]}): {complaint}")


def specs_of(options: Options) -> list[Spec]:
    """Every engine, the one alone first."""
    return [aggregated_of(options.model), *engines_of(options.model, options.ranks, options.first_term)]


def answers_alone(pool: EnginePool, options: Options) -> dict[str, Reference]:
    """The tokens of the aggregated engine for each job, by name; it ends before the others start.

    It is asked as many at a time as the others will be.
    """
    [engine] = pool.get(aggregated_of(options.model))
    calm = asyncio.Semaphore(options.concurrency)

    async def one(job: Job) -> tuple[str, Reference]:
        async with calm:
            return job.name, await reference(engine, job)

    async def everything() -> list[tuple[str, Reference]]:
        return await asyncio.gather(*[one(job) for jobs in options.jobs for job in jobs])

    found = dict(asyncio.run(everything()))
    pool.stop(engine.spec)
    return found


def start(pool: EnginePool, options: Options) -> Site:
    owner, *readers = pool.get(*engines_of(options.model, options.ranks, options.first_term))
    return Site(owner, readers, options.first_term, free_port())


async def send(site: Site, jobs: list[Job], expected: dict[str, Reference], options: Options) -> Results:
    """All jobs, so many at a time, each compared with what the aggregated engine said."""
    results, calm = Results(), asyncio.Semaphore(options.concurrency)
    ties = options.ranks != (1, 1)  # the aggregated engine has one
    done = 0

    async def one(job: Job) -> None:
        nonlocal done
        try:
            answer = await run(site, job, calm)
        except (httpx.HTTPError, TimeoutError, ValueError, LookupError) as error:
            results.add(job, "broken", repr(error))
        else:
            judge(site, results, job, answer, expected[job.name], ties=ties)
        done += 1
        if done % 20 == 0 or done == len(jobs):
            say(f"{done} of {len(jobs)} requests, {len(results.wrong)} wrong")

    await asyncio.gather(*map(one, jobs))
    return results


def judge(site: Site, results: Results, job: Job, answer: Answer, expected: Reference, *, ties: bool) -> None:
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
        verdicts = {expected.judge(sample, ties=ties) for sample in answer.samples}
        verdict = next(verdict for verdict in ("unequal", "tie", "equal") if verdict in verdicts)
        results.add(job, verdict, f"{answer.samples} is not {expected.tokens}" if verdict == "unequal" else "")


def ran_out(site: Site, job: Job, answer: Answer) -> bool:
    """On a machine with too much to do a lease can end before decode comes to it: it is promised for one term."""
    reasons = [record["reason"] for record in site.readers[job.reader].pulls(job.name)]
    return answer.age >= site.first_term and any(reason.startswith("LeaseExpired") for reason in reasons)


def churn(pool: EnginePool, options: Options) -> dict[str, Any]:
    """Run it all; the summary, whose "failed_checks" is empty if all is well."""
    say(f"{options.model}, ranks {options.ranks[0]}-{options.ranks[1]}; first one engine alone")
    expected = answers_alone(pool, options)
    site = start(pool, options)
    say(f"engines are ready; warm-up of {options.warm_up}")
    began = time.monotonic()
    warm_up, jobs = options.jobs
    warm = asyncio.run(send(site, warm_up, expected, options))
    settled, _ = settle(site)
    before = steady(site)
    say(f"warm-up {'settled' if settled else 'did NOT settle'}; {options.requests} requests")
    results = asyncio.run(send(site, jobs, expected, options))
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
    ties = sum(outcomes["tie"] for seen_by in (warm, results) for outcomes in seen_by.kinds.values())
    owner_ranks, reader_ranks = options.ranks
    ranks = {"prefill": owner_ranks, **{f"decode-{policy}": reader_ranks for policy in POLICIES}}
    pulls = {f"decode-{policy}": by_rank(engine) for policy, engine in zip(POLICIES, site.readers, strict=True)}
    pulled = {who: [rank for rank, ended in found.items() if ended["ok"]] for who, found in pulls.items()}
    hits_of = {who: engine.local_hits for who, engine in seen.items()}
    hits = [hits_of["prefill"] > 0, any(hits_of[f"decode-{policy}"] for policy in POLICIES)]
    expected_hits = [MODELS[options.model].keeps_prefixes] * 2
    checks = {
        "tokens and statuses": not wrong,
        "ties": ties <= (options.warm_up + options.requests) * MAX_TIES,
        "leases": all(engine.held == 0 for engine in seen.values()),
        # On every rank; one that is forgotten is renewed for `affirm_within`, and then runs out.
        "completed leases": seen["prefill"].ended.get("completed", 0) >= owner_ranks * sum(map(served, site.readers)),
        "kv usage": all(engine.usage == 0 for engine in seen.values()),
        "processes, threads and descriptors": not more(after, before) and after.keys() == before.keys(),
        "resident memory": all(growth < MAX_GROWTH for growth in grown.values()),
        "preempted": any(preemptions.values()),
        "local hits": hits == expected_hits,
        "pulled": all(seen[f"decode-{policy}"].pulls.get(lane) for policy, lane in POLICIES.items()),
        "pulled on every rank": all(found == list(range(reader_ranks)) for found in pulled.values()),
        # One rank alone is in the scheduler's process.
        "all ranks' processes": workers(after) == {who: count for who, count in ranks.items() if count > 1},
        "healthy": all(healthy.values()),
    }
    return {
        "failed_checks": [name for name, holds in checks.items() if not holds],
        **asdict(options),
        "kinds": {kind: dict(outcomes) for kind, outcomes in sorted(results.kinds.items())},
        "mismatches": len(wrong),
        "ties": ties,
        "wrong": wrong[:10],
        "leases": {"granted": seen["prefill"].granted, "held": seen["prefill"].held, "ended": seen["prefill"].ended},
        "kv_usage": {who: engine.usage for who, engine in seen.items()},
        "preemptions": preemptions,
        "local_hit_tokens": hits_of,
        "pulls": {who: engine.pulls for who, engine in seen.items() if engine.pulls},
        "pulls_by_rank": pulls,
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


def two_ranks(text: str) -> tuple[int, int]:
    owner, reader = map(int, text.split("-"))
    return owner, reader


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--requests", type=int, default=200, help="after the warm-up (default: %(default)s)")
    # vLLM keeps what it prepared for each shape of a batch, without a connector too; 200 requests have met most shapes.
    parser.add_argument("--warm-up", type=int, default=200, help="requests of the same mix (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--concurrency", type=int, default=8, help="requests at a time (default: %(default)s)")
    parser.add_argument("--first-term", type=float, default=15.0, help="of a lease, seconds (default: %(default)s)")
    parser.add_argument("--model", choices=MODELS, default="llama", help="kind of cache (default: %(default)s)")
    parser.add_argument("--ranks", type=two_ranks, default=(1, 1), help="of prefill and of decode (default: 1-1)")
    given = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # also in a shell's background, where SIGINT would be ignored
        signal.signal(number, leave)
    with tempfile.TemporaryDirectory(prefix="kvdirect-churn-") as folder:
        pool = EnginePool(MODELS[given.model].make(Path(folder) / "model"), Path(folder))
        try:
            found = churn(pool, Options(**vars(given)))
        finally:
            pool.stop_all()
    print(json.dumps(found, indent=2))
    return 1 if found["failed_checks"] else 0


if __name__ == "__main__":
    sys.exit(main())
