# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The router's keeper, where several workers serve: it holds the fleet, checks its health, and has the workers run.

Clients never meet it. Workers are programs of their own, started with the listening socket and the memory of the
counts; each has a channel to the keeper, over which it learns who the instances are and asks for changes. A change is
made when every worker has said that it knows of it.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from kvdirect.errors import CommandError

from .api_keys import KeyFile
from .channel import ChannelError
from .counts import CountTable, Gauge
from .fleet import Fleet, FleetFullError
from .http_client import Client
from .listener import shown_address
from .server import CLOSING_SECONDS, run
from .tls import server_context
from .worker_process import WorkerProcess

if TYPE_CHECKING:
    import socket

    from .channel import Message
    from .config import ProxyConfig
    from .instances import Instance, Role

# For all workers to be ready, and how often one may be started for that.
_START_SECONDS = 120.0
_MOST_STARTS = 3
# For a worker to say that it knows who the instances are; one that does not is ended, for it serves nobody either.
_KNOW_SECONDS = 10.0
# Between two starts of a worker: twice as long after each one that did not live for _LIVED_SECONDS.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0
_LIVED_SECONDS = 10.0
# Beyond the last words to requests, for tickets that are given back.
_SETTLE_SECONDS = 5.0
_LOOK_EVERY = 0.05
_KEYS_EVERY = 1.0

_log = logging.getLogger("kvdirect.proxy")


class KeptFleet(Fleet):
    """The fleet, of which all workers are told."""

    def __init__(self, config: ProxyConfig, counts: CountTable, keeper: Keeper) -> None:
        super().__init__(config, counts)
        self._keeper = keeper

    def _add(self, role: Role, url: str) -> Instance:
        instance = super()._add(role, url)
        instance.on_turn = self._keeper.tell_turn
        return instance

    def at(self, place: int) -> Instance | None:
        """The instance at a place."""
        return next((instance for instance in self if instance.place == place), None)

    async def spread(self) -> None:
        """Have every worker know who is there."""
        await self._keeper.tell_fleet()


class Keeper:
    """Keeps the workers of one router."""

    def __init__(self, config: ProxyConfig, sock: socket.socket) -> None:
        """Prepare.

        Raises:
            UsageError: The certificate, or the file of keys, cannot be used.
        """
        self._config = config
        self._socket = sock
        self._scheme = "http" if server_context(config) is None else "https"
        self._counts = CountTable(config, config.workers)
        self._in_flight = self._counts.gauge(Gauge.IN_FLIGHT)
        self._keys = None if config.api_key_file is None else KeyFile(config.api_key_file, self._counts)
        self._fleet = KeptFleet(config, self._counts, self)
        self._fleet.begin()
        self._workers: dict[int, WorkerProcess] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._began = asyncio.Event()
        self._stop_asked = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._failed: CommandError | None = None

    async def run(self) -> int:
        """Until a signal says so; returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        async with Client() as client, self._fleet.watched(client):
            work = [self._keep(worker) for worker in range(self._config.workers)]
            tasks = [asyncio.create_task(each) for each in (*work, self._watch_keys())]
            for task in tasks:
                task.add_done_callback(self._ended)
            try:
                await self._serve()
            finally:
                self._stop_asked.set()
                self._socket.close()
                await self._end_all()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        if self._failed is not None:
            raise self._failed
        _log.info("stopped")
        return 0

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Stop where one of our own tasks has failed: nobody would keep the workers."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("the router's keeper fails", exc_info=error)
            self._failed = CommandError(f"the router's keeper failed: {error!r}")
            self._stop_asked.set()

    async def _serve(self) -> None:
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._until_ready()
        except TimeoutError:
            self._failed = CommandError(f"the workers were not ready within {_START_SECONDS:g} s; see the log")
        if self._failed is not None or self._stop_asked.is_set():
            return
        self._began.set()
        print(f"kvdirect proxy listening on {shown_address(self._socket, self._scheme)}", flush=True)
        await self._stop_asked.wait()
        self._tell("drain")
        ends = time.monotonic() + self._config.drain_timeout
        # The first look is a moment later, so that what is on its way has been counted.
        await self._pause_while_running(ends)

    async def _until_ready(self) -> None:
        while not (self._all_ready() or self._failed or self._stop_asked.is_set()):  # noqa: ASYNC110 (any of three)
            await asyncio.sleep(_LOOK_EVERY)

    async def _pause_while_running(self, ends: float) -> None:
        while True:
            await asyncio.sleep(2 * _LOOK_EVERY)
            if self._in_flight.total == 0 or time.monotonic() >= ends or self._stop_now.is_set():
                return

    def _all_ready(self) -> bool:
        return len(self._workers) == self._config.workers and all(one.ready for one in self._workers.values())

    def _signalled(self) -> None:
        (self._stop_now if self._stop_asked.is_set() else self._stop_asked).set()

    async def _keep(self, number: int) -> None:
        """Have this worker run, as long as the router does."""
        pause, starts = _FIRST_PAUSE, 0
        while True:
            starts += 1
            began = time.monotonic()
            try:
                one = await self._start(number)
            except OSError as error:
                status = f"not started: {error}"
            else:
                status = await one.run(partial(self._heard, one))
                self._workers.pop(number, None)
                self._counts.forget(number)
            if self._stop_asked.is_set():
                return
            _log.warning("worker %d ended, %s; another one takes its place", number, status)
            if not self._began.is_set() and starts >= _MOST_STARTS:
                self._failed = CommandError(f"worker {number} ended {starts} times before it was ready, {status}")
                return
            lived = time.monotonic() - began >= _LIVED_SECONDS
            pause = _FIRST_PAUSE if lived else min(2 * pause, _LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def _start(self, number: int) -> WorkerProcess:
        counts = self._counts.descriptor or 0
        one = await WorkerProcess.start(number, (self._socket.fileno(), counts))
        one.channel.send(
            "start",
            config=asdict(self._config),
            worker=number,
            listener=self._socket.fileno(),
            counts=counts,
            secret=None if self._keys is None else self._keys.secret.hex(),
            log_level=logging.getLogger().getEffectiveLevel(),
        )
        self._workers[number] = one
        one.channel.send("fleet", number=0, instances=self._told())
        self._send_keys(one)
        return one

    # ---- what workers say

    def _heard(self, one: WorkerProcess, message: Message) -> None:
        match message["op"]:
            case "ready":
                one.ready = True
                one.channel.send("begin")
            case "refused":
                instance = self._fleet.at(message["place"])
                if instance is not None:
                    instance.failed(message["error"])
            case "suspect":
                instance = self._fleet.at(message["place"])
                if instance is not None and instance.on_suspicion is not None:
                    instance.on_suspicion()
            case "forget_models":
                self._tell("forget_models", but=one)
            case "make_room":
                other = self._workers.get(message["worker"])
                if other is not None:
                    other.channel.send("make_room", what=message["what"])
            case "join" | "leave" | "drain":
                task = asyncio.create_task(self._change(one, message))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _change(self, one: WorkerProcess, message: Message) -> None:
        """Change the fleet, and answer once every worker knows."""
        content: Message = {}
        instance = self._fleet.at(message.get("place", -1))
        if message["op"] == "join":
            try:
                _, content["new"] = await self._fleet.join(message["role"], message["url"])
            except FleetFullError as error:
                content["full"] = str(error)
        elif instance is None:
            pass  # it has left
        elif message["op"] == "leave":
            await self._fleet.leave(instance)
        else:
            await self._fleet.drain(instance, remove=message["remove"])
        one.channel.answer(message, **content)

    # ---- what workers are told

    def _told(self) -> list[dict[str, object]]:
        return [instance.as_told() for instance in self._fleet]

    def _tell(self, op: str, *, but: WorkerProcess | None = None, **content: object) -> None:
        for one in self._workers.values():
            if one is not but:
                one.channel.send(op, **content)

    def tell_turn(self, instance: Instance) -> None:
        """The health of an instance has changed."""
        self._tell("turn", instance=instance.as_told())

    async def tell_fleet(self) -> None:
        """Have every worker know who is there; one that is not ready yet will know before it serves."""
        told = self._told()
        await asyncio.gather(*(self._tell_one(one, told) for one in list(self._workers.values())))

    async def _tell_one(self, one: WorkerProcess, told: list[dict[str, object]]) -> None:
        if not one.ready:
            one.channel.send("fleet", number=0, instances=told)
            return
        try:
            await one.channel.ask("fleet", _KNOW_SECONDS, instances=told)
        except ChannelError as error:
            _log.warning("worker %d does not take what it is told, and is ended: %s", one.number, error)
            one.kill()

    async def _watch_keys(self) -> None:
        while self._keys is not None:
            await asyncio.sleep(_KEYS_EVERY)
            before = self._keys.known
            self._keys.look()
            if self._keys.known != before:
                for one in self._workers.values():
                    self._send_keys(one)

    def _send_keys(self, one: WorkerProcess) -> None:
        if self._keys is not None:
            one.channel.send("keys", keys=msgspec.to_builtins(self._keys.known))

    async def _end_all(self) -> None:
        """Have every worker stop, and end those that do not."""
        self._tell("stop")
        left = list(self._workers.values())
        await asyncio.gather(*(one.end(CLOSING_SECONDS + _SETTLE_SECONDS) for one in left))


def keep(config: ProxyConfig, sock: socket.socket) -> int:
    """Run a router of several workers; returns the exit status.

    Raises:
        CommandError: They cannot be started.
    """
    keeper = Keeper(config, sock)
    status = run(keeper.run())
    sys.stdout.flush()
    return status
