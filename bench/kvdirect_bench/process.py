# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Starts the processes of engines on this host, and talks to them."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import tempfile
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from .channel import Channel, ChannelClosed, Message
from .errors import WorkerError
from .pythons import python_of, worker_command, worker_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .backends.base import Settings
    from .contenders import Contender
    from .workload import Workload

# Filling gigabytes and importing libraries takes a while on a small machine.
DEADLINE = 180.0
_GRACE = 15.0
_LAST_WORDS = 2000


class Handle(Protocol):
    """A side of an engine, wherever it runs."""

    def call(self, do: str, **arguments: object) -> Any:  # noqa: ANN401
        """Run a command there and return its value."""

    def freeze(self) -> None:
        """Make it stand still."""

    def thaw(self) -> None:
        """Let it go on."""

    def stop(self) -> None:
        """End it."""


class Host(Protocol):
    """Where sides can be started."""

    def open(self, contender: Contender, side: str, workload: Workload, settings: Settings) -> Handle:
        """Start one."""


class Process:
    """A worker on this host."""

    def __init__(self, what: str, python: str, module: str, side: str, more: tuple[tuple[str, str], ...]) -> None:
        """Start it; `what` is its name in errors."""
        self._what = what
        # Libraries write to standard error whatever they like; it is looked at only if the process ends early.
        self._words = tempfile.TemporaryFile()  # noqa: SIM115  (closed in stop)
        self._child = subprocess.Popen(  # noqa: S603  (our own program)
            worker_command(python, module, side),
            env=worker_environment(python, more),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
        )
        assert self._child.stdin is not None  # noqa: S101  (we asked for pipes)
        assert self._child.stdout is not None  # noqa: S101
        self._channel = Channel(self._child.stdout.fileno(), self._child.stdin.fileno(), what)
        self._begun = False

    def begin(self, do: str, **arguments: object) -> None:
        """Have it run a command while the caller goes on; the next `call` raises what comes of it."""
        self._send({"do": do, **arguments})
        self._begun = True

    def call(self, do: str, **arguments: object) -> Any:  # noqa: ANN401
        """Run a command there.

        Raises:
            WorkerError: It failed there, or one that was begun did, or the process is gone.
        """
        if self._begun:
            self._begun = False
            self._answer()
        self._send({"do": do, **arguments})
        return self._answer()

    def freeze(self) -> None:
        """Make it stand still."""
        self._child.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._child.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End its input, which ends it; kill it if that does not."""
        self.thaw()
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            self._child.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait(_GRACE)
        self._words.close()

    def _send(self, command: Message) -> None:
        try:
            self._channel.send(command, DEADLINE)
        except ChannelClosed as error:
            raise WorkerError(f"{self._what}: {self._how_it_ended()}") from error

    def _answer(self) -> Any:  # noqa: ANN401
        try:
            answer = self._channel.receive(DEADLINE)
        except ChannelClosed as error:
            raise WorkerError(f"{self._what}: {self._how_it_ended()}") from error
        if "error" in answer:
            raise WorkerError(f"{self._what}: {answer['error']}")
        return answer["value"]

    def _how_it_ended(self) -> str:
        try:
            status = self._child.wait(_GRACE)
        except subprocess.TimeoutExpired:
            return "it closed its output and went on running"
        size = self._words.seek(0, 2)
        self._words.seek(max(0, size - _LAST_WORDS))
        lines = self._words.read().decode(errors="replace").strip().splitlines()
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return f"its process {how}" + (f": {lines[-1].strip()}" if lines else "")


class LocalHost:
    """This host."""

    def __init__(self, pythons: Mapping[str, str]) -> None:
        """`pythons`: those that the user named, by library."""
        self._pythons = pythons

    def open(self, contender: Contender, side: str, workload: Workload, settings: Settings) -> Process:
        """Start one side; it imports what it needs and takes its memory while others start."""
        python = python_of(contender, self._pythons)
        process = Process(f"{contender.name} ({side})", python, contender.module, side, contender.environment)
        try:
            process.begin("open", **opening(workload, settings))
        except BaseException:
            process.stop()
            raise
        return process


def opening(workload: Workload, settings: Settings) -> Message:
    """The arguments of the first command."""
    return {"workload": workload.as_dict(), "settings": asdict(settings)}
