# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the churn sends: a seeded mix of requests that end well, are given up by their client, or cannot be loaded."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import cycle, islice

from engines import BLOCK, WORDS

MAX_LENGTH = 1024
LONGEST_PROMPT = 900
# Requests that share a prefix follow each other, so many at a time.
GROUP = 4
# One of each before the second of any, so that a short run has all of them.
KINDS = (
    *("short", "long", "shared", "growing", "samples"),
    *("leaves_prefill", "leaves_with_ticket", "leaves_decode", "leaves_stream"),
    *("unknown_lease", "dead_port", "expired", "restarted"),
    *("shared", "growing", "long", "leaves_decode"),
    *("shared", "growing", "short", "unknown_lease"),
    *("shared", "growing", "long", "leaves_prefill"),
    *("shared", "growing", "samples", "leaves_stream"),
)
# Their ticket leads nowhere: the decode engine fails or recomputes them, by its policy.
FAILING = frozenset({"unknown_lease", "dead_port", "expired", "restarted"})
LEAVING = frozenset(kind for kind in KINDS if kind.startswith("leaves_"))


@dataclass(frozen=True, slots=True)
class Job:
    """One request of the mix.

    Attributes:
        reader: which of the decode engines it goes to.
        patience: seconds after which the client of a `leaves_prefill` or `leaves_decode` goes; for `leaves_stream`
            the number of tokens.
    """

    index: int
    kind: str
    prompt: str
    max_tokens: int
    stream: bool
    reader: int
    patience: float = 0.0

    @property
    def samples(self) -> int:
        return 2 if self.kind == "samples" else 1

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.index:05d}-"


def make_mix(count: int, *, seed: int, readers: int, first: int = 0) -> list[Job]:
    """`count` jobs, numbered from `first`; the same seed and numbers give the same jobs."""
    dice = random.Random(f"{seed} {first}")  # noqa: S311  (repeatable on purpose)
    kinds = list(islice(cycle(KINDS), count))
    dice.shuffle(kinds)
    jobs: list[Job] = []
    prefix, reader, sharing = "", 0, 0
    for index, kind in enumerate(_in_groups(kinds), first):
        if kind != "shared" or sharing % GROUP == 0:
            prefix, reader = f"{dice.randrange(1000):03d}/{seed}/{index}: ", dice.randrange(readers)
        if kind == "shared":
            if sharing % GROUP == 0:
                prefix += _words(dice, 5 * BLOCK)
            sharing += 1
        jobs.append(_job(dice, index, kind, prefix, reader))
    return jobs


def _in_groups(kinds: list[str]) -> list[str]:
    """The same kinds, with those that share a prefix GROUP at a time: small caches soon forget."""
    grouped, waiting = [], 0
    left = kinds.count("shared")
    for kind in kinds:
        if kind != "shared":
            grouped.append(kind)
            continue
        waiting, left = waiting + 1, left - 1
        if waiting == GROUP or left == 0:
            grouped += ["shared"] * waiting
            waiting = 0
    return grouped


def _job(dice: random.Random, index: int, kind: str, prefix: str, reader: int) -> Job:
    """One job, whose prompt begins with `prefix`: like no other one's, or its group's."""
    low, high = {
        "short": (2, 2 * BLOCK),
        "long": (400, LONGEST_PROMPT),
        "growing": (60, 200),
        "leaves_prefill": (300, LONGEST_PROMPT),
        # Nobody completes the leases of these, so they are kept small.
        **dict.fromkeys((*FAILING, "leaves_with_ticket"), (2 * BLOCK, 4 * BLOCK)),
    }.get(kind, (2 * BLOCK, 400))
    length = dice.randint(low, high)
    if kind == "shared":
        prompt = prefix + f"{index} " + _words(dice, dice.randint(1, 150))
    else:
        prompt = (prefix + _words(dice, length))[:length]
    patience = 0.0
    if kind in {"leaves_prefill", "leaves_decode"}:
        patience = 10 ** dice.uniform(-2.5, 0.3)
    elif kind == "leaves_stream":
        patience = dice.randint(1, 12)
    return Job(
        index=index,
        kind=kind,
        prompt=prompt,
        max_tokens=dice.randint(80, 120) if kind == "growing" else dice.randint(1, 24) + 16 * (kind in LEAVING),
        stream=kind == "leaves_stream" or dice.random() < 0.5,
        reader=reader,
        patience=patience,
    )


def _words(dice: random.Random, length: int) -> str:
    at = dice.randrange(len(WORDS))
    return (WORDS[at:] + WORDS * (length // len(WORDS) + 1))[:length]
