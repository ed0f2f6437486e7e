# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""One simulated engine: step after step, each as long as the table says."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvdirect_bench.errors import BenchUsageError

from .jobs import Blocks
from .oracle import seconds
from .scheduler import Limits, Scheduler, Step

if TYPE_CHECKING:
    from collections.abc import Generator

    import simpy

    from .jobs import Job
    from .oracle import StepTimes

# Steps that are worked out at once, at most.
_SPAN = 1024


@dataclass(frozen=True, slots=True)
class Model:
    """What all engines of a cluster have in common.

    Attributes:
        times: Of steps.
        kv_tokens: That a cache holds.
        kv_bytes: Of a token.
        block: Tokens of a block.
        overhead: Seconds that scheduler and input cost at each step, beside what the GPU computes.
        singly: Work out each step by itself: slower, and the same.
    """

    times: StepTimes
    kv_tokens: int
    kv_bytes: int
    block: int = 16
    overhead: float = 0.001
    singly: bool = False

    def __post_init__(self) -> None:
        for name in ("kv_tokens", "kv_bytes", "block"):
            if getattr(self, name) < 1:
                raise BenchUsageError(f"{name} {getattr(self, name)}: expected at least 1")
        if self.overhead < 0:
            raise BenchUsageError(f"overhead {self.overhead:g}: expected seconds from 0")


class Engine:
    """One engine.

    Attributes:
        name: For errors.
        busy: Seconds in which it computed.
        in_flight: Jobs that it has been given and that have not ended.
        token_seconds: How long a decoded token took of late; 0 before the first.
        token_cost: Seconds of its steps a token of a prompt, of late; 0 before the first.
    """

    def __init__(self, env: simpy.Environment, name: str, model: Model, limits: Limits) -> None:
        self.name = name
        self.busy = 0.0
        self.in_flight = 0
        self.token_seconds = 0.0
        self.token_cost = 0.0
        self.blocks = Blocks(model.kv_tokens // model.block, model.block)
        self.scheduler = Scheduler(limits, self.blocks)
        self._env = env
        self._model = model
        self._news = env.event()
        env.process(self._run())

    @property
    def idle(self) -> bool:
        """It has no job, and nobody reads its blocks."""
        return self.blocks.free == self.blocks.total and not self.in_flight

    @property
    def queued(self) -> int:
        """Tokens of prompts that it has been given and has not computed."""
        waiting = sum(job.missing for job in self.scheduler.waiting if not job.remote)
        return waiting + sum(job.missing for job in self.scheduler.running if job.missing > 1)

    def add(self, job: Job) -> None:
        """Give it a job."""
        self.scheduler.add(job)
        self.in_flight += 1
        self._wake()

    def land(self, job: Job) -> None:
        """A remote job's blocks are filled."""
        self.scheduler.land(job)
        self._wake()

    def release(self, job: Job) -> None:
        """Free the blocks that a job kept."""
        self.blocks.give_back(job)
        self._wake()

    def _wake(self) -> None:
        if not self._news.triggered:
            self._news.succeed()

    def _run(self) -> Generator[simpy.Event, object, None]:
        while True:
            if self._news.triggered:
                self._news = self._env.event()
            step = self.scheduler.next_step()
            if step is None:
                yield self._news
            elif step.decodes and self.scheduler.quiet and not self._model.singly:
                yield from self._decode(step)
            else:
                yield from self._once(step)

    def _once(self, step: Step) -> Generator[simpy.Event, object, None]:
        chunks, sequences, context = [], 0, 0
        for job, tokens in step.parts:
            if tokens == 1:
                sequences += 1
                context += job.known
            else:
                chunks.append((tokens, job.computed))
        length = seconds(self._model.times, chunks, sequences, context / sequences if sequences else 0)
        length += self._model.overhead
        yield self._env.timeout(length)
        self.busy += length
        if sequences:
            self._measure(length)
        if chunks:
            self._cost(length, sum(tokens for tokens, _ in chunks))
        self._finish(step, 1, self._env.now)

    def _decode(self, step: Step) -> Generator[simpy.Event, object, None]:
        """Steps of decoding alone, as many as nothing can change: until one ends, blocks run out, or there is news."""
        jobs = [job for job, _ in step.parts]
        count = min(_SPAN, *(job.outputs - job.generated for job in jobs))
        while count > 1 and self._scarce(jobs, count):
            count //= 2
        context = sum(job.known for job in jobs) / len(jobs)
        times, overhead = self._model.times, self._model.overhead
        dense = times.dense(len(jobs)) + overhead
        ends, now = [], self._env.now
        for number in range(count):
            now += dense + times.decode(len(jobs), context + number)
            ends.append(now)
        began = self._env.now
        done = count
        yield self._env.timeout(ends[-1] - began) | self._news
        if self._env.now < ends[-1]:
            done = bisect_left(ends, self._env.now) + 1
            if ends[done - 1] > self._env.now:
                yield self._env.timeout(ends[done - 1] - self._env.now)
        self.busy += self._env.now - began
        self._measure((self._env.now - began) / done)
        self._finish(step, done, ends[0])

    def _scarce(self, jobs: list[Job], steps: int) -> bool:
        """Blocks do not suffice for so many steps."""
        if len(jobs) * self.blocks.of(steps + 1) <= self.blocks.free:
            return False  # even if each needed the most
        return sum(max(0, self.blocks.of(job.computed + steps) - job.blocks) for job in jobs) > self.blocks.free

    def _finish(self, step: Step, steps: int, first: float) -> None:
        """Count what was computed; `steps` above 1 are of decoding, and the first of them ended at `first`."""
        for job, tokens in step.parts:
            prompt = job.computed < job.request.prompt
            if steps > 1 and job.computed + steps > job.blocks * self.blocks.size:
                self.blocks.take(job, job.computed + steps)
            job.computed += tokens if steps == 1 else steps
            if job.computed == job.known + steps - 1:
                if not job.generated and not job.keeps:
                    # A prefill instance's token is not shown: the decode instance computes it again.
                    job.request.first = first
                job.generated += steps
            if prompt:
                job.progressed(job)
            if job.generated == job.outputs:
                self.scheduler.end(job)
                self.in_flight -= 1
                job.ended(job)

    def _measure(self, length: float) -> None:
        self.token_seconds += ((length - self.token_seconds) * 0.2) if self.token_seconds else length

    def _cost(self, length: float, tokens: int) -> None:
        cost = length / tokens
        self.token_cost += ((cost - self.token_cost) * 0.2) if self.token_cost else cost
