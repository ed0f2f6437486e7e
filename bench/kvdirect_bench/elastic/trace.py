# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Sends each request of a trace at its time, whether earlier ones have ended or not, and keeps when its tokens came."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import httpx

from kvdirect.harness.completions import complete
from kvdirect.harness.model import SPECIAL_TOKENS, VOCABULARY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvdirect.harness.processes import ProcessSet
    from kvdirect_bench.cluster.jobs import Request

# Requests in flight at a time, at most; what comes then is late, and counted so.
_AT_ONCE = 256
# Seconds without a byte.
_DEADLINE = 120.0
# Between the call and the first request: threads start.
_LEAD = 0.5


@dataclass(frozen=True, slots=True)
class Played:
    """What became of a trace.

    Attributes:
        done: Answered requests, in order; times in seconds from the trace's beginning.
        lost: Of the others, why.
        latest: Seconds that the latest of all was sent after its time.
        began: When, on `time.monotonic`'s clock.
    """

    done: list[Request]
    lost: list[str]
    latest: float
    began: float


@dataclass(frozen=True, slots=True)
class _Answer:
    request: Request
    late: float
    error: str = ""


def tokens(count: int, seed: int) -> list[int]:
    """A prompt: the same for the same seed, and with others' nothing in common."""
    chance = random.Random(seed)  # noqa: S311
    return chance.choices(range(len(SPECIAL_TOKENS), VOCABULARY), k=count)


def play(url: str, requests: Sequence[Request], processes: ProcessSet) -> Played:
    """Send them all.

    Args:
        url: Of the router.
        requests: In order of arrival.
        processes: That serve; one that ends is noticed while requests wait.

    Raises:
        StartError: A process has ended.
    """
    began = time.monotonic() + _LEAD
    stop = threading.Event()
    try:
        answers = processes.run([partial(_send, url, one, began, stop) for one in requests], at_once=_AT_ONCE)
    finally:
        stop.set()  # threads that wait for a request's time would keep the program
    return Played(
        [one.request for one in answers if not one.error],
        [one.error for one in answers if one.error],
        max(one.late for one in answers),
        began,
    )


def _send(url: str, request: Request, began: float, stop: threading.Event) -> _Answer:
    if stop.wait(max(0.0, began + request.arrival - time.monotonic())):
        return _Answer(request, 0.0, f"request {request.number}: was not sent any more")
    sent = time.monotonic() - began
    try:
        answer = complete(
            url,
            tokens(request.prompt, request.number),
            f"trace-{request.number}",
            timeout=_DEADLINE,
            max_tokens=request.outputs,
        )
    except (httpx.HTTPError, ValueError, LookupError) as error:
        return _Answer(request, sent - request.arrival, f"request {request.number}: {type(error).__name__}: {error}")
    if len(answer.tokens) != request.outputs or answer.prompt_tokens != request.prompt:
        got = f"{len(answer.tokens)} tokens to {answer.prompt_tokens}"
        wanted = f"{request.outputs} to {request.prompt}"
        return _Answer(request, sent - request.arrival, f"request {request.number}: {got}, expected {wanted}")
    done = replace(request, first=sent + answer.ttft, end=sent + answer.seconds)
    return _Answer(done, sent - request.arrival)
