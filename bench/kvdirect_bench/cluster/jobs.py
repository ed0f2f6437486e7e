# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What clients ask for, what an engine makes of it, and the blocks of an engine's cache."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvdirect_bench.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class Request:
    """One request of a client, and what became of it. Times in seconds from the beginning of the simulation.

    Attributes:
        number: Its place in the workload.
        arrival: When the router has it.
        prompt: Tokens.
        outputs: Tokens that are generated, at least 1.
        phase: Of a workload that changes: which part it belongs to.
        first: When the client has the first token.
        end: When it has the last.
        exposed: Seconds between the end of its prefill and the end of its transfer; 0 without a transfer.
        preempted: How often its blocks were taken away.
    """

    number: int
    arrival: float
    prompt: int
    outputs: int
    phase: int = 0
    first: float = math.nan
    end: float = math.nan
    exposed: float = 0.0
    preempted: int = 0

    @property
    def ttft(self) -> float:
        """Seconds to the first token."""
        return self.first - self.arrival

    @property
    def tpot(self) -> float:
        """Seconds a token after the first; 0 where there is no other."""
        return (self.end - self.first) / (self.outputs - 1) if self.outputs > 1 else 0.0

    @property
    def latency(self) -> float:
        """Seconds of the whole request."""
        return self.end - self.arrival


def _nothing(_: Job) -> None:
    pass


@dataclass(slots=True, eq=False)
class Job:
    """What one engine does of a request.

    Attributes:
        request: Whose it is.
        outputs: Tokens to generate; a prefill instance's job is one.
        remote: Its prompt's blocks come from another engine: it gets blocks, and waits until they are filled.
        keeps: Its blocks are not free at its end but when they are released: another engine reads them.
        progressed: Called after each step that computed some of its prompt.
        admitted: Called when a remote job has its blocks.
        ended: Called when its last token is there.
        computed: Tokens whose keys and values are in the cache.
        generated: Tokens so far.
        blocks: Blocks that it has.
    """

    request: Request
    outputs: int
    remote: bool = False
    keeps: bool = False
    progressed: Callable[[Job], None] = _nothing
    admitted: Callable[[Job], None] = _nothing
    ended: Callable[[Job], None] = _nothing
    computed: int = field(default=0, init=False)
    generated: int = field(default=0, init=False)
    blocks: int = field(default=0, init=False)

    @property
    def known(self) -> int:
        """Tokens of the prompt, and those generated so far."""
        return self.request.prompt + self.generated

    @property
    def missing(self) -> int:
        """Tokens to compute before the next one is known."""
        return self.request.prompt + self.generated - self.computed


class Blocks:
    """The blocks of one engine's cache.

    Attributes:
        size: Tokens of a block.
        total: Blocks.
        free: Blocks that nobody has.
        least: The fewest that ever were free.
    """

    def __init__(self, total: int, size: int) -> None:
        self.size = size
        self.total = self.free = self.least = total

    def of(self, tokens: int) -> int:
        """How many hold so many tokens."""
        return -(-tokens // self.size)

    def take(self, job: Job, tokens: int) -> bool:
        """Give a job what it lacks for so many tokens in all; False: there are not enough, and it got none."""
        more = self.of(tokens) - job.blocks
        if more > self.free:
            return False
        if more > 0:
            self.free -= more
            job.blocks += more
            self.least = min(self.least, self.free)
        return True

    def give_back(self, job: Job) -> None:
        """Take all of a job's."""
        self.free += job.blocks
        job.blocks = 0
        if self.free > self.total:
            raise BenchError(
                f"more blocks are free ({self.free}) than there are ({self.total}): a fault of the simulator"
            )
