# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""vLLM's rules for what a step computes: with chunked prefill as version 1 has them, without as version 0 did."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvdirect_bench.errors import BenchUsageError

if TYPE_CHECKING:
    from .jobs import Blocks, Job


@dataclass(frozen=True, slots=True)
class Limits:
    """What one step may hold.

    Attributes:
        tokens: Tokens of a step, at most (vLLM's max_num_batched_tokens).
        sequences: Sequences of a step, at most (max_num_seqs).
        chunked: Prompts are cut to what is left of a step's tokens, and run beside sequences that are decoded;
            otherwise a step is of whole prompts as long as one waits, and of decoding only when none does.
    """

    tokens: int
    sequences: int = 256
    chunked: bool = True

    def __post_init__(self) -> None:
        for name in ("tokens", "sequences"):
            if getattr(self, name) < 1:
                raise BenchUsageError(f"{name} of a step {getattr(self, name)}: expected at least 1")
        if self.chunked and self.sequences > self.tokens:
            raise BenchUsageError(
                f"{self.sequences} sequences do not fit a step of {self.tokens} tokens; raise the tokens"
            )


@dataclass(frozen=True, slots=True)
class Step:
    """What a step computes: of each job how many tokens.

    Attributes:
        parts: The jobs, in order, and their tokens.
        decodes: None of them is a prompt's part.
    """

    parts: list[tuple[Job, int]]
    decodes: bool


class Scheduler:
    """The queues of one engine. Nothing here knows of time.

    Attributes:
        waiting: Jobs without blocks, in order.
        running: Jobs that have blocks, in the order in which they got them.
        loading: Remote jobs that have blocks which are being filled.
        landed: Those whose blocks are filled, and that no step has held yet.
    """

    def __init__(self, limits: Limits, blocks: Blocks) -> None:
        self.limits = limits
        self.blocks = blocks
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self.loading: set[Job] = set()
        self.landed: deque[Job] = deque()

    @property
    def quiet(self) -> bool:
        """Nobody waits to get into a step."""
        return not self.waiting and not self.landed

    def add(self, job: Job) -> None:
        """Queue a job.

        Raises:
            BenchUsageError: It can never run here; says why.
        """
        most = job.request.prompt + job.outputs
        if self.blocks.of(most) > self.blocks.total:
            raise BenchUsageError(
                f"request {job.request.number} has {most} tokens, and the cache holds "
                f"{self.blocks.total * self.blocks.size}; expected fewer, or a larger cache"
            )
        if not self.limits.chunked and not job.remote and most > self.limits.tokens:
            raise BenchUsageError(
                f"request {job.request.number} has {most} tokens, and a step without chunked prefill holds "
                f"{self.limits.tokens}; raise that, or prefill in chunks"
            )
        self.waiting.append(job)

    def land(self, job: Job) -> None:
        """A remote job's blocks are filled: all of the prompt but its last token, which is computed here."""
        self.loading.remove(job)
        job.computed = job.request.prompt - 1
        self.landed.append(job)

    def next_step(self) -> Step | None:
        """What the next step computes; None: nothing can be computed now."""
        step = self._mixed() if self.limits.chunked else self._prompts_first()
        return step if step.parts else None

    def _mixed(self) -> Step:
        parts: list[tuple[Job, int]] = []
        left, decodes, preempted = self.limits.tokens, True, False
        at = 0
        while at < len(self.running) and left:
            job = self.running[at]
            tokens = min(job.missing, left)
            while job.computed + tokens > job.blocks * self.blocks.size and not self.blocks.take(
                job, job.computed + tokens
            ):
                preempted = True
                if self._preempt_last() is job:
                    break
            else:
                parts.append((job, tokens))
                decodes = decodes and tokens == 1
                left -= tokens
                at += 1
        if preempted:
            return Step(parts, decodes)
        while left and len(self.running) < self.limits.sequences and (admitted := self._admit()) is not None:
            tokens = min(admitted.missing, left)
            parts.append((admitted, tokens))
            decodes = decodes and tokens == 1
            left -= tokens
        return Step(parts, decodes)

    def _prompts_first(self) -> Step:
        parts: list[tuple[Job, int]] = []
        left = self.limits.tokens
        while len(self.running) < self.limits.sequences:
            if not self.landed and self.waiting and not self.waiting[0].remote and self.waiting[0].missing > left:
                break
            job = self._admit()
            if job is None:
                break
            left -= job.missing
            parts.append((job, job.missing))
        if parts:
            return Step(parts, decodes=False)
        at = 0
        while at < len(self.running):
            job = self.running[at]
            while not self.blocks.take(job, job.computed + 1):
                if self._preempt_last() is job:
                    break
            else:
                parts.append((job, 1))
                at += 1
        return Step(parts, decodes=True)

    def _admit(self) -> Job | None:
        """The next job for a step, with blocks for all that is known of it; remote ones get theirs on the way."""
        while True:
            if self.landed:
                job = self.landed.popleft()
            elif not self.waiting or not self.blocks.take(self.waiting[0], self.waiting[0].known):
                return None
            else:
                job = self.waiting.popleft()
                if job.remote:
                    job.remote = False  # from now on its blocks are its own: preempted, it is computed here
                    self.loading.add(job)
                    job.admitted(job)
                    continue
            self.running.append(job)
            return job

    def _preempt_last(self) -> Job:
        """Take the blocks of the job that came last; it will be computed again from its beginning."""
        job = self.running.pop()
        self.blocks.give_back(job)
        job.computed = 0
        job.request.preempted += 1
        self.waiting.appendleft(job)
        return job

    def end(self, job: Job) -> None:
        """A job is done; its blocks are free unless it keeps them."""
        self.running.remove(job)
        if not job.keeps:
            self.blocks.give_back(job)
