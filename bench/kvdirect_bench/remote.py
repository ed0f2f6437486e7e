# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The reader's view of a machine where `serve` runs."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from .channel import Channel
from .errors import BenchError, BenchUsageError, WorkerError
from .process import DEADLINE, opening
from .serve import PROTOCOL

if TYPE_CHECKING:
    from types import TracebackType

    from .backends.base import Settings
    from .contenders import Contender
    from .workload import Workload

_CONNECT_SECONDS = 10.0
# The other side has DEADLINE for its own process.
_SECONDS = DEADLINE + 30.0


class RemoteHost:
    """A connection to `serve`. A context manager."""

    def __init__(self, address: str) -> None:
        """Connect to HOST:PORT.

        Raises:
            BenchUsageError: That is no address.
            BenchError: Nobody is there, or somebody of another version.
        """
        host, colon, port = address.rpartition(":")
        if not colon or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise BenchUsageError(f"run {address}: expected HOST:PORT, as `serve` prints it on the other machine")
        try:
            self._socket = socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS)
        except OSError as error:
            raise BenchError(f"{address} cannot be reached: {error}; start `serve` there first") from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._channel = Channel(self._socket.fileno(), self._socket.fileno(), address)
        self._ask(do="hello", protocol=PROTOCOL)

    def open(self, contender: Contender, side: str, workload: Workload, settings: Settings) -> RemoteProcess:
        """Start one side there."""
        del side  # owners only
        identity = self._ask(do="open", contender=contender.name, **opening(workload, settings))
        return RemoteProcess(self, int(identity))

    def ask(self, identity: int, do: str, **more: object) -> Any:  # noqa: ANN401
        """Have something done with one of its processes."""
        return self._ask(do=do, id=identity, **more)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hang up, which ends its processes."""
        self._socket.close()

    def _ask(self, **message: object) -> Any:  # noqa: ANN401
        self._channel.send(message, _SECONDS)
        answer = self._channel.receive(_SECONDS)
        if "error" in answer:
            raise WorkerError(f"on the other machine: {answer['error']}")
        return answer.get("value")


@dataclass(frozen=True, slots=True)
class RemoteProcess:
    """A side that runs there."""

    host: RemoteHost
    identity: int

    def call(self, do: str, **arguments: object) -> Any:  # noqa: ANN401
        """Run a command there and return its value."""
        return self.host.ask(self.identity, "call", command=do, arguments=arguments)

    def freeze(self) -> None:
        """Make it stand still."""
        self.host.ask(self.identity, "freeze")

    def thaw(self) -> None:
        """Let it go on."""
        self.host.ask(self.identity, "thaw")

    def stop(self) -> None:
        """End it."""
        self.host.ask(self.identity, "stop")
