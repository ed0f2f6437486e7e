# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What waiting for a watermark costs: until the pull is done, to ready pulls beside it, and in processor time."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .backends.base import Settings
from .contenders import Contender
from .errors import BenchError
from .process import LocalHost
from .report import Outcome
from .spread import median
from .workload import Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kvtransfer import Pull

    from .backends.waiting_backend import WaitingReader
    from .process import Process

_BLOCK = 4096
_SAME_HOST = ("shm", "cma")
LANES = (*_SAME_HOST, "message")
_RAISES = 50
# Long enough for whoever looks again less and less often to look as seldom as it ever does; not always the same.
_PAUSES = (0.02, 0.035, 0.05)
_READY, _BESIDE = 20, 140
_MANY = 4000
_SETTLE_SECONDS, _CPU_SECONDS = 0.5, 2.0
# A pull that should be done at once and takes so long has missed, and ends the measurement.
_GIVE_UP = 5.0
_LONG = 120.0


@dataclass(frozen=True, slots=True)
class Reading:
    """A figure of one lane: in words, and as a number in the unit of the limit."""

    value: float
    text: str


@dataclass(frozen=True, slots=True)
class Limit:
    """What one figure may be at most.

    Attributes:
        work: What is measured, in words.
        most: The limit.
        unit: Of both.
        lanes: On which.
        measure: From an owner in a process of its own and a reader in this one.
    """

    work: str
    most: float
    unit: str
    lanes: tuple[str, ...]
    measure: Callable[[Process, WaitingReader], Reading]


def judge_waiting(say: Callable[[str], None]) -> list[Outcome]:
    """Every limit on every lane; what fails or takes too long is missed, and the next one is measured."""
    return [judge_limit(limit, lane, say) for limit in LIMITS for lane in limit.lanes]


def judge_limit(limit: Limit, lane: str, say: Callable[[str], None]) -> Outcome:
    """One limit on one lane."""
    import kvtransfer as kt  # noqa: PLC0415  (the command line explains itself without the native core)

    work, wanted = f"{limit.work}, {lane}", f"at most {limit.most:g} {limit.unit}"
    say(work)
    try:
        with _pair(lane) as (owner, reader):
            reading = limit.measure(owner, reader)
    except (BenchError, kt.KVTransferError) as error:
        return Outcome(work, wanted, f"{type(error).__name__}: {' '.join(str(error).split())}", met=False)
    return Outcome(work, wanted, reading.text, met=reading.value <= limit.most)


@contextlib.contextmanager
def _pair(lane: str) -> Iterator[tuple[Process, WaitingReader]]:
    from .backends.waiting_backend import WaitingReader  # noqa: PLC0415  (as above)

    workload, settings = Workload("raw", 1, 1, 1, 1, 1, _BLOCK, 1.0, "default"), Settings(variant=lane)
    with contextlib.ExitStack() as stack:
        owner = LocalHost({}).open(
            Contender(f"waiting-{lane}", "kvdirect", "waiting_backend"), "owner", workload, settings
        )
        stack.callback(owner.stop)
        reader = WaitingReader(workload, settings)
        reader.start(owner.call("start"))
        stack.callback(reader.close)
        yield owner, reader


def _raise_to_done(owner: Process, reader: WaitingReader) -> Reading:
    """The owner is idle, the pull is asked for first and its caller waits; then the watermark is raised."""
    took = []
    with ThreadPoolExecutor(1) as caller:
        for number in range(_RAISES):
            pull = reader.ask(owner.call("grant", final=False), _GIVE_UP)
            ended = caller.submit(_end_of, pull)
            time.sleep(_PAUSES[number % len(_PAUSES)])
            raised = owner.call("raise")
            took.append(ended.result() - raised)
            owner.call("revoke")
    return _milliseconds(took)


def _end_of(pull: Pull) -> float:
    pull.wait()
    return time.perf_counter()


def _ready_beside_waiting(owner: Process, reader: WaitingReader) -> Reading:
    """From the call to the end of pulls whose blocks are final, while others' are not."""
    ready = owner.call("grant", final=True)
    took = []
    with _waiting(_BESIDE, owner, reader):
        for _ in range(_READY):
            began = time.perf_counter()
            reader.ask(ready, _GIVE_UP).wait()
            took.append(time.perf_counter() - began)
    return _milliseconds(took)


def _processor_time(owner: Process, reader: WaitingReader) -> Reading:
    """Of both processes."""
    with _waiting(_MANY, owner, reader):
        before, began = owner.call("spent") + time.process_time(), time.perf_counter()
        time.sleep(_CPU_SECONDS)
        spent = owner.call("spent") + time.process_time() - before
        share = 100 * spent / (time.perf_counter() - began)
    return Reading(share, f"{share:.1f} %")


@contextlib.contextmanager
def _waiting(count: int, owner: Process, reader: WaitingReader) -> Iterator[None]:
    """So many pulls that wait inside."""
    lease = owner.call("grant", final=False)
    pulls = [reader.ask(lease, _LONG) for _ in range(count)]
    try:
        time.sleep(_SETTLE_SECONDS)
        if any(pull.done for pull in pulls):
            raise BenchError(f"of {count} pulls that should wait, {sum(pull.done for pull in pulls)} have ended")
        yield
    finally:
        reader.end(pulls)


def _milliseconds(seconds: Sequence[float]) -> Reading:
    middle = median(seconds) * 1e3
    return Reading(middle, f"{middle:.2f} ms, worst {max(seconds) * 1e3:.2f}")


LIMITS = (
    Limit("watermark raised to pull done", 5, "ms", LANES, _raise_to_done),
    Limit(f"a ready pull behind {_BESIDE} that wait", 20, "ms", LANES, _ready_beside_waiting),
    Limit(f"{_MANY} pulls that wait, of a core", 5, "%", _SAME_HOST, _processor_time),
)
