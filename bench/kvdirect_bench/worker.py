# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""One side of one engine in a process of its own: commands on standard input, answers on standard output.

A command is {"do": name, ...arguments}, an answer {"value": ...} or {"error": text}. The process ends with its input.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from .backends.base import Owner, Reader, Settings
from .channel import Channel, ChannelClosed, Message
from .errors import BenchError
from .storage import pattern_of
from .workload import Workload

if TYPE_CHECKING:
    from collections.abc import Callable

    from .device_pattern import DevicePattern
    from .pattern import Pattern

_ANSWER_SECONDS = 60.0
# Nobody asks for that long only if something is stuck.
_ORPHAN_SECONDS = 3600.0
_PR_SET_PDEATHSIG = 1
# A turn of something slow ends after so long, with a pull at least.
_TURN_SECONDS = 1.0


class OwnerCommands:
    """What the process of an owner can be asked for."""

    def __init__(self, owner: Owner) -> None:
        """Serve this one."""
        self.side = owner
        self.known: dict[str, Callable[..., Any]] = {
            "start": owner.start,
            "offer": owner.offer,
            "withdraw": owner.withdraw,
            **owner.commands(),
        }

    def idle(self) -> float | None:
        """As the owner says."""
        return self.side.idle()


class ReaderCommands:
    """What the process of a reader can be asked for."""

    def __init__(self, reader: Reader) -> None:
        """Serve this one."""
        self.side = reader
        self.known: dict[str, Callable[..., Any]] = {"start": self._start, "turn": self._turn}
        self._pattern = pattern_of(reader.workload)

    def idle(self) -> float | None:
        """A reader does nothing by itself."""
        return None

    def _start(self, invitation: dict[str, Any]) -> Message:
        return {"pages": self.side.pages(), **self.side.start(invitation)}

    def _turn(self, seed: int, offer: dict[str, Any], pulls: int) -> Message:
        return take_turn(self.side, self._pattern, seed, offer, pulls)


def take_turn(
    reader: Reader, pattern: Pattern | DevicePattern, seed: int, offer: dict[str, Any], pulls: int
) -> Message:
    """Time some pulls of the same blocks into cleared memory, check every byte of it, and clear it again.

    It is cleared afterwards, not before, so that the other engines' turns come between that and the next pull.
    """
    reader.aim(seed, offer)
    gc.collect()
    gc.disable()
    try:
        if reader.workload.device == "cuda":
            # The GPU changes over from the process whose turn it was, which is nobody's speed: not timed.
            reader.pull()
        seconds, posts = _timed_pulls(reader, pulls)
    finally:
        gc.enable()
    source, target = reader.units(seed)
    if reader.settings.corrupt:
        reader.memory[int(target[-1]) * reader.workload.unit_bytes + 1] ^= 1
    wrong = pattern.wrong_bytes(reader.memory, source, target)
    pattern.clear(reader.memory)
    return {"seconds": seconds, "posts": posts, "wrong": wrong, "runs": reader.runs()}


def _timed_pulls(reader: Reader, pulls: int) -> tuple[list[float], list[float]]:
    """At most so many, as long as the turn lasts: seconds of each, and seconds until it asked for its first byte."""
    seconds: list[float] = []
    posts: list[float] = []
    end = time.perf_counter() + _TURN_SECONDS
    while not seconds or (len(seconds) < pulls and time.perf_counter() < end):
        began = time.perf_counter()
        post = reader.pull()
        took = time.perf_counter() - began
        own = reader.own_seconds()
        seconds.append(took if own is None else own)
        posts.append(post)
    return seconds, posts


def _open(module: str, side: str, first: Message) -> OwnerCommands | ReaderCommands:
    if first.get("do") != "open":
        raise BenchError(f"expected the command open, got {first.get('do')!r}")
    workload, settings = Workload.from_dict(first["workload"]), Settings(**first["settings"])
    backend = importlib.import_module(f"kvdirect_bench.backends.{module}")
    if side == "owner":
        return OwnerCommands(backend.OWNER(workload, settings))
    return ReaderCommands(backend.READER(workload, settings))


def _next(channel: Channel, commands: OwnerCommands | ReaderCommands, started: bool) -> Message:
    deadline = time.monotonic() + _ORPHAN_SECONDS
    while time.monotonic() < deadline:
        wait = commands.idle() if started else None
        if channel.readable(_ORPHAN_SECONDS if wait is None else wait):
            return channel.receive(_ANSWER_SECONDS)
    raise ChannelClosed("nobody asked for anything for an hour")


def _serve(channel: Channel, module: str, side: str) -> None:
    commands = _open(module, side, channel.receive(_ORPHAN_SECONDS))
    channel.send({"value": {}}, _ANSWER_SECONDS)
    started = False
    try:
        while True:
            command = _next(channel, commands, started)
            name = command.pop("do", None)
            if name not in commands.known:
                raise BenchError(f"there is no command {name!r}")
            value = commands.known[name](**command)
            started = started or name == "start"
            channel.send({"value": value}, _ANSWER_SECONDS)
    except ChannelClosed:
        if started:
            commands.side.close()


def _die_with_parent() -> None:
    """A process that stands still would not notice the end of its input."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Run `MODULE SIDE` from the command line; never returns."""
    module, side = sys.argv[1:3]
    # Libraries log to standard output: keep that one for answers and let everything else go to standard error.
    answers = os.dup(1)
    os.dup2(2, 1)
    _die_with_parent()
    channel = Channel(0, answers, "the benchmark")
    status = 0
    try:
        _serve(channel, module, side)
    except Exception as error:  # noqa: BLE001  (whatever it is, the user must see it)
        status = 1
        with contextlib.suppress(BenchError):
            channel.send({"error": str(error) if isinstance(error, BenchError) else _told(error)}, _ANSWER_SECONDS)
    sys.stderr.flush()
    # What libraries do at the interpreter's end is not what is measured, and some crash there.
    os._exit(status)


def _told(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"
