# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The owner's machine: starts owners for a `run` on another machine, and passes its commands on to them.

Whoever can connect can make this machine take memory and compute, so it listens on the device it is told to and nowhere
else, and is for a private network. One reader at a time is served.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

from .backends.base import Settings
from .channel import Channel, ChannelClosed, Message
from .contenders import by_name
from .errors import BenchError
from .storage import available
from .workload import Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .process import LocalHost, Process

# Both ends must be of the same version of this.
PROTOCOL = 3
# A reader that asks for nothing so long is taken for gone.
IDLE_SECONDS = 600.0
_ANSWER_SECONDS = 60.0
_MOST_MEMORY = 0.8


class Desk:
    """The processes of one reader, and the commands it can give."""

    def __init__(self, host: LocalHost, listen: str) -> None:
        """Start processes on `host`; they listen on `listen`."""
        self._host = host
        self._listen = listen
        self._open: dict[int, Process] = {}
        self._known: dict[str, Callable[[Message], Any]] = {
            "hello": self._hello,
            "open": self._start,
            "call": lambda message: self._of(message).call(**_arguments(message)),
            "freeze": lambda message: self._of(message).freeze(),
            "thaw": lambda message: self._of(message).thaw(),
            "stop": lambda message: self._open.pop(int(message["id"])).stop(),
        }

    def answer(self, message: Message) -> Message:
        """The answer to one command."""
        act = self._known.get(str(message.get("do")))
        if act is None:
            return {"error": f"there is no command {message.get('do')!r}"}
        try:
            return {"value": act(message)}
        except BenchError as error:
            return {"error": str(error)}
        except (KeyError, TypeError, ValueError) as error:
            return {"error": f"the command {message.get('do')!r} makes no sense: {type(error).__name__}: {error}"}

    def close(self) -> None:
        """End all its processes."""
        while self._open:
            _, process = self._open.popitem()
            process.stop()

    @staticmethod
    def _hello(message: Message) -> Message:
        if message.get("protocol") != PROTOCOL:
            raise BenchError(
                f"this side speaks benchmark protocol {PROTOCOL}, the other {message.get('protocol')}; "
                "install the same kvdirect on both"
            )
        return {"protocol": PROTOCOL}

    def _start(self, message: Message) -> int:
        contender = by_name(str(message["contender"]))
        workload = Workload.from_dict(message["workload"])
        wanted = workload.memory_bytes(workload.owner)
        free = available(workload)
        if wanted > _MOST_MEMORY * free:
            raise BenchError(
                f"an owner of {wanted >> 20} MiB does not fit into the {free >> 20} MiB that are free here"
            )
        told: Mapping[str, Any] = message["settings"]
        settings = Settings(
            variant=contender.variant,
            listen=self._listen,
            copy_threads=int(told["copy_threads"]),
            deadline=float(told["deadline"]),
        )
        identity = max(self._open, default=0) + 1
        self._open[identity] = self._host.open(contender, "owner", workload, settings)
        return identity

    def _of(self, message: Message) -> Process:
        found = self._open.get(int(message["id"]))
        if found is None:
            raise BenchError(f"there is no process {message['id']}")
        return found


def serve(listener: socket.socket, host: LocalHost, listen: str, say: Callable[[str], None]) -> None:
    """Serve one reader after the other until interrupted."""
    while True:
        connection, address = listener.accept()
        with connection, contextlib.closing(Desk(host, listen)) as desk:
            say(f"serving {address[0]}")
            try:
                converse(connection, desk, address[0])
            except ChannelClosed:
                say(f"{address[0]} is done")
            except BenchError as error:
                say(f"{address[0]}: {error}")


def converse(connection: socket.socket, desk: Desk, name: str) -> None:
    """Answer one reader's commands until it leaves; ChannelClosed says that it did."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    channel = Channel(connection.fileno(), connection.fileno(), name)
    while True:
        channel.send(desk.answer(channel.receive(IDLE_SECONDS)), _ANSWER_SECONDS)


def _arguments(message: Message) -> dict[str, Any]:
    return {"do": message["command"], **message["arguments"]}
