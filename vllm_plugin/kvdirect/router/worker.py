# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""One of the router's workers: a process that serves, and has the fleet, the keys and its orders from the keeper."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from kvdirect.log import LOG_FORMAT

from .api_keys import ApiKey, ApiKeys
from .channel import Channel, ChannelError, Message
from .config import ProxyConfig
from .counts import CountTable
from .crew import Crew
from .fleet import Fleet, FleetFullError
from .instances import Instance, Role
from .server import Server, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import FrameType

    from .http_client import Client

# Beyond what the keeper itself takes for a change: its health check, and the answers of all workers.
_PATIENCE = 30.0


class FollowedFleet(Fleet):
    """The fleet as the keeper says it is. What is found out of an instance here goes to the keeper, who tells all."""

    def __init__(self, config: ProxyConfig, counts: CountTable, channel: Channel) -> None:
        super().__init__(config, counts)
        self._channel = channel

    def follow(self, told: list[dict[str, Any]]) -> None:
        """Have these instances and no others."""
        known = {(instance.place, instance.url): instance for instance in self}
        for pool in (self.prefill, self.decode):
            pool.instances.clear()
        for each in told:
            instance = known.pop((each["place"], each["url"]), None) or self._made(each)
            instance.follow(each)
            self.pool(instance.role).instances.append(instance)
        for instance in known.values():
            instance.drain()  # what still runs there counts on

    def _made(self, told: dict[str, Any]) -> Instance:
        role: Role = told["role"]
        instance = Instance(role, told["url"], self._counts, told["place"])
        place = instance.place
        instance.on_refusal = lambda error: self._channel.send("refused", place=place, error=error)
        instance.on_suspicion = lambda: self._channel.send("suspect", place=place)
        return instance

    def turn(self, told: dict[str, Any]) -> None:
        """The health of one has changed."""
        for instance in self:
            if instance.place == told["place"]:
                instance.follow(told)

    @asynccontextmanager
    async def watched(self, client: Client) -> AsyncIterator[None]:
        """The keeper watches them."""
        del client
        yield

    async def join(self, role: Role, url: str) -> tuple[Instance, bool]:
        """See Fleet."""
        answer = await self._ask("join", role=role, url=url)
        found = self.find(url, role)
        if not found:
            raise ChannelError(f"{url} has left again")
        return found[0], bool(answer["new"])

    async def leave(self, instance: Instance) -> None:
        """See Fleet."""
        await self._ask("leave", place=instance.place)

    async def drain(self, instance: Instance, *, remove: bool) -> None:
        """See Fleet."""
        await self._ask("drain", place=instance.place, remove=remove)

    async def _ask(self, op: str, **content: object) -> Message:
        answer = await self._channel.ask(op, self._config.health_timeout + _PATIENCE, **content)
        if "full" in answer:
            raise FleetFullError(answer["full"])
        return answer


class WorkerCrew(Crew):
    """What a worker shares with the others, by way of the keeper."""

    def __init__(self, config: ProxyConfig, counts: CountTable, keys: ApiKeys | None, channel: Channel) -> None:
        self._channel = channel
        self.followed = FollowedFleet(config, counts, channel)
        super().__init__(counts, self.followed, keys)

    def forget_models(self) -> None:
        """See Crew."""
        self._channel.send("forget_models")

    def make_room(self, worker: int, what: str) -> None:
        """See Crew."""
        self._channel.send("make_room", worker=worker, what=what)


class WorkerServer(Server):
    """Serves until the keeper says otherwise; signals are the keeper's affair."""

    def __init__(self, config: ProxyConfig, sock: socket.socket, crew: WorkerCrew, channel: Channel) -> None:
        super().__init__(config, sock, crew)
        self._crew = crew
        self._channel = channel
        self._may_begin = asyncio.Event()

    async def tell_ready(self) -> None:
        """All that the keeper has said before it answers this is known then."""
        self._channel.send("ready")
        await self._may_begin.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Leave it to the keeper, who has the same signal where it went to all."""

    def is_drained(self) -> bool:
        """The keeper knows."""
        return False

    def obey(self, message: Message) -> None:
        """Do what the keeper says."""
        match message["op"]:
            case "fleet":
                self._crew.followed.follow(message["instances"])
                self._channel.answer(message)
            case "turn":
                self._crew.followed.turn(message["instance"])
            case "keys" if self._crew.keys is not None:
                self._crew.keys.know(msgspec.convert(message["keys"], list[ApiKey]))
            case "begin":
                self._may_begin.set()
            case "forget_models":
                self.router.models.forget()
            case "make_room":
                held = self.router.bodies if message["what"] == "body" else self.router.connections
                held.give_way()
            case "drain":
                self.router.draining = True
            case "stop":
                self.router.draining = self.should_exit = True

    async def listen_to_keeper(self) -> None:
        """Obey until the keeper ends; then nobody would count, and another one may want the port."""
        await self._channel.serve(self.obey)
        self.stop_listening()
        self._may_begin.set()
        self.router.draining = self.should_exit = True


async def _work(sock: socket.socket) -> None:
    channel = await Channel.over(sock)
    told = await channel.read()
    if told is None:
        return
    config = msgspec.convert(told["config"], ProxyConfig)
    logging.basicConfig(level=told["log_level"], format=LOG_FORMAT)
    counts = CountTable(config, config.workers, told["worker"], told["counts"])
    keys = None
    if told["secret"] is not None:
        keys = ApiKeys(bytes.fromhex(told["secret"]), counts)
    crew = WorkerCrew(config, counts, keys, channel)
    server = WorkerServer(config, socket.socket(fileno=told["listener"]), crew, channel)
    listening = asyncio.create_task(server.listen_to_keeper())
    await server.serve(sockets=[])
    listening.cancel()
    channel.close()


def main(descriptor: int) -> int:
    """Work for the keeper at the other end of this socket; returns the exit status."""
    run(_work(socket.socket(fileno=descriptor)))
    sys.stdout.flush()
    return 0
