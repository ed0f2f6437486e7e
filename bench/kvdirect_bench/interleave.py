# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The interleaved run: in every round each engine has its turn, in a new order, at the same blocks."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from .contenders import LANE_MODULE
from .errors import BenchError, WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .backends.base import Settings
    from .contenders import Contender
    from .process import Handle, Host
    from .workload import Workload

# Small pulls are repeated within a turn until about this much was moved, so that a turn is worth its overhead.
_TURN_BYTES = {"cpu": 8 << 20, "cuda": 8 << 30}
_MOST_PULLS = 200
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Turn:
    """What one engine did in one round: seconds of each pull, seconds to the first byte asked for, wrong bytes."""

    seconds: tuple[float, ...]
    posts: tuple[float, ...]
    wrong: int
    runs: int | None


@dataclass(slots=True)
class Result:
    """An engine's turns, in order of rounds; what it said of itself; wrong bytes of the rounds that do not count."""

    contender: Contender
    facts: dict[str, Any]
    turns: list[Turn] = field(default_factory=list)
    warmup_wrong: int = 0


class Pair:
    """One engine's two processes, or its only one."""

    def __init__(
        self, contender: Contender, owners: Host, readers: Host, workload: Workload, settings: Settings
    ) -> None:
        """Start them."""
        self.contender = contender
        self.facts: dict[str, Any] = {}
        self._handles: list[Handle] = []
        self._owner: Handle | None = None
        try:
            if not contender.alone:
                self._owner = self._opened(owners.open(contender, "owner", workload, settings))
            self._reader = self._opened(readers.open(contender, "reader", workload, settings))
        except BaseException:
            self.stop()
            raise

    def connect(self) -> None:
        """Let them, once both have started; a pair that cannot is stopped."""
        try:
            invitation = self._owner.call("start") if self._owner else {}
            self.facts = self._reader.call("start", invitation=invitation)
        except BaseException:
            self.stop()
            raise
        self.rest()

    def turn(self, seed: int, pulls: int) -> Turn:
        """Pull the blocks of that seed so many times."""
        with self._awake():
            offer = self._owner.call("offer", seed=seed) if self._owner else {}
            told = self._reader.call("turn", seed=seed, offer=offer, pulls=pulls)
            if self._owner:
                self._owner.call("withdraw")
        return Turn(tuple(told["seconds"]), tuple(told["posts"]), int(told["wrong"]), told["runs"])

    def rest(self) -> None:
        """Make it stand still if it would not by itself."""
        if self.contender.restless:
            for handle in self._handles:
                handle.freeze()

    def stop(self) -> None:
        """End the processes, the reader's first."""
        for handle in reversed(self._handles):
            with contextlib.suppress(BenchError):
                handle.stop()

    def _opened(self, handle: Handle) -> Handle:
        self._handles.append(handle)
        return handle

    @contextlib.contextmanager
    def _awake(self) -> Iterator[None]:
        if self.contender.restless:
            for handle in self._handles:
                handle.thaw()
        yield
        self.rest()


def pulls_per_turn(workload: Workload) -> int:
    """How often a turn repeats its pull."""
    return max(1, min(_MOST_PULLS, _TURN_BYTES[workload.device] // workload.pull_bytes))


def in_rounds(contenders: Sequence[_T], rounds: int, warmup: int) -> Iterator[tuple[int, str, list[_T]]]:
    """Each round's number (those of the warm-up are below 0), its name, and the order of turns."""
    for number in range(-warmup, rounds):
        # The order must differ between rounds and be the same when the run is repeated.
        order = random.Random(number).sample(list(contenders), len(contenders))  # noqa: S311  (repeatable on purpose)
        yield number, f"round {number + 1} of {rounds}" if number >= 0 else "warming up", order


def interleave(
    contenders: Sequence[Contender],
    hosts: tuple[Host, Host],
    workload: Workload,
    settings: Callable[[Contender], Settings],
    *,
    rounds: int,
    warmup: int,
    say: Callable[[str], None],
) -> list[Result]:
    """Run them all.

    Args:
        contenders: Who takes part.
        hosts: Where owners run, and where readers do.
        workload: What they pull.
        settings: What each of them is told.
        rounds: That count.
        warmup: Rounds before those.
        say: Told about the progress.

    Raises:
        BenchError: One of them failed. Optional ones that cannot start are left out.
    """
    with contextlib.ExitStack() as stack:
        # All are started before the first is waited for: what they import takes seconds.
        started: list[Pair] = []
        for contender in contenders:
            say(f"starting {contender.name}")
            with _left_out(contender, say):
                started.append(Pair(contender, *hosts, workload, settings(contender)))
                stack.callback(started[-1].stop)
        pairs: list[Pair] = []
        for pair in started:
            with _left_out(pair.contender, say):
                pair.connect()
                pairs.append(pair)
        if not any(pair.contender.module == LANE_MODULE for pair in pairs):
            raise BenchError("no lane works here; `kvdirect doctor` says why")
        results = {pair.contender.name: Result(pair.contender, pair.facts) for pair in pairs}
        pulls = pulls_per_turn(workload)
        for number, what, order in in_rounds(pairs, rounds, warmup):
            say(what)
            for pair in order:
                turn = pair.turn(seed=number + 1000, pulls=pulls)
                result = results[pair.contender.name]
                if number >= 0:
                    result.turns.append(turn)
                else:
                    result.warmup_wrong += turn.wrong
    return list(results.values())


@contextlib.contextmanager
def _left_out(contender: Contender, say: Callable[[str], None]) -> Iterator[None]:
    """Goes on without an optional one that cannot take part."""
    try:
        yield
    except WorkerError as error:
        if not contender.optional:
            raise
        say(f"left out: {error}")
