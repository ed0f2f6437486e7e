# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A request's way through a cluster: by one engine, or by two with push, pull or streamed pull between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .jobs import Job

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Generator, Sequence

    import simpy

    from .engine import Engine
    from .jobs import Request
    from .network import Link, Network

    Way = Generator[simpy.Event, object, None]

WAYS = ("colocated", "push", "pull", "streamed")


@dataclass(eq=False)
class Prefills:
    """What a router counts of an instance that prefills: requests it was given, and those that have not ended."""

    taken: int = 0
    in_flight: int = 0


@dataclass(eq=False)
class Instance:
    """An engine as the router knows it.

    Attributes:
        engine: What computes.
        out: Its link for what others read of it.
        into: Its link for what it reads.
        role: What the router gives it; None: nothing, it drains.
        decoding: Requests that it decodes, or will.
        prefill: Those whose prompt it computes for another one.
    """

    engine: Engine
    out: Link
    into: Link
    role: str | None
    decoding: int = 0
    prefill: Prefills = field(default_factory=Prefills)

    @property
    def idle(self) -> bool:
        """Nothing of it is needed any more: no job, no blocks that others read, no request that is on its way."""
        return not self.decoding and self.engine.idle


class Dispatch:
    """Takes requests to instances and their blocks from one to the other.

    Attributes:
        instances: Of the cluster.
        done: Requests that have ended.
        prompts: Tokens of all prompts that have arrived.
    """

    def __init__(
        self, env: simpy.Environment, instances: list[Instance], network: Network, kv_bytes: int, hop: float
    ) -> None:
        self.instances = instances
        self.done = 0
        self._env = env
        self._network = network
        self._kv_bytes = kv_bytes
        self._hop = hop
        self.prompts = 0

    def serve(self, requests: Sequence[Request], way: str) -> Way:
        """Take each request at its time, and go one of `WAYS` with it."""
        for request in requests:
            yield self._env.timeout(request.arrival - self._env.now)
            self._env.process(self._whole(request, way))

    def serve_in_turn(self, queue: deque[Request], way: str) -> Way:
        """One client, which sends its next request when its last has ended."""
        while queue:
            request = queue.popleft()
            request.arrival = self._env.now
            yield from self._whole(request, way)

    def _whole(self, request: Request, way: str) -> Way:
        go = {"colocated": self.colocated, "push": self.push, "pull": self.pull, "streamed": self.streamed}[way]
        self.prompts += request.prompt
        yield from go(request)
        request.end = self._env.now
        self.done += 1

    def colocated(self, request: Request) -> Way:
        """One engine does all of it."""
        yield self._env.timeout(self._hop)
        reader = self._reader("both")
        yield self._begin(reader, Job(request, request.outputs)).ended
        reader.decoding -= 1

    def pull(self, request: Request) -> Way:
        """Prefill first; its blocks stay until the decode instance has found room for them and has read them."""
        yield self._env.timeout(self._hop)
        owner = self._owner()
        prefill = self._begin(owner, Job(request, 1, keeps=True))
        yield prefill.ended
        ended = self._env.now
        yield self._env.timeout(self._hop)
        reader = self._reader()
        decode = self._begin(reader, Job(request, request.outputs, remote=True))
        yield decode.admitted
        yield from self._network.carry(request.prompt * self._kv_bytes, (owner.out, reader.into))
        self._land(prefill, decode, ended)
        yield decode.ended
        reader.decoding -= 1

    def push(self, request: Request) -> Way:
        """Room at the decode instance first; only then is the prompt queued for prefill, which sends its blocks."""
        yield self._env.timeout(self._hop)
        reader = self._reader()
        decode = self._begin(reader, Job(request, request.outputs, remote=True))
        yield decode.admitted
        owner = self._owner()
        prefill = self._begin(owner, Job(request, 1, keeps=True))
        yield prefill.ended
        ended = self._env.now
        yield from self._network.carry(request.prompt * self._kv_bytes, (owner.out, reader.into))
        self._land(prefill, decode, ended)
        yield decode.ended
        reader.decoding -= 1

    def streamed(self, request: Request) -> Way:
        """Both at once: the reader waits without blocks for the first tokens, and reads behind the watermark."""
        yield self._env.timeout(self._hop)
        owner = self._owner()
        reader = self._reader()
        prefill = self._begin(owner, Job(request, 1, keeps=True))
        yield prefill.news
        decode = self._begin(reader, Job(request, request.outputs, remote=True))
        yield decode.admitted
        read = 0
        while read < request.prompt:
            ready = prefill.watermark
            if ready > read:
                yield from self._network.carry((ready - read) * self._kv_bytes, (owner.out, reader.into))
                read = ready
            else:
                yield prefill.news
        self._land(prefill, decode, prefill.when)
        yield decode.ended
        reader.decoding -= 1

    def _owner(self) -> Instance:
        """The prefill instance with the fewest tokens to compute; the first of equals."""
        return min((one for one in self.instances if one.role == "prefill"), key=lambda one: one.engine.queued)

    def _reader(self, role: str = "decode") -> Instance:
        """The instance with the fewest requests; it counts this one from now on."""
        found = min((one for one in self.instances if one.role == role), key=lambda one: one.decoding)
        found.decoding += 1
        return found

    def _begin(self, instance: Instance, job: Job) -> _Begun:
        return _Begun(self._env, instance, job)

    def _land(self, prefill: _Begun, decode: _Begun, ended: float) -> None:
        decode.job.request.exposed = self._env.now - ended
        prefill.instance.engine.release(prefill.job)
        decode.instance.engine.land(decode.job)


class _Begun:
    """A job that an engine has, and the events of its life.

    Attributes:
        admitted: A remote job has its blocks.
        ended: Its last token is there.
        news: More of its prompt is computed than before; another event each time.
        watermark: Tokens of the prompt that are computed.
        when: That was so since then.
    """

    def __init__(self, env: simpy.Environment, instance: Instance, job: Job) -> None:
        self.instance = instance
        self.job = job
        self.admitted = env.event()
        self.ended = env.event()
        self.news = env.event()
        self.watermark = 0
        self.when = 0.0
        self._env = env
        job.admitted = self._admit
        job.ended = self._end
        job.progressed = self._progress
        if job.keeps:
            instance.prefill.taken += 1
            instance.prefill.in_flight += 1
        instance.engine.add(job)

    def _progress(self, job: Job) -> None:
        self.watermark = min(job.computed, job.request.prompt)
        self.when = self._env.now
        self.news.succeed()
        self.news = self._env.event()

    def _admit(self, _: Job) -> None:
        self.admitted.succeed()

    def _end(self, job: Job) -> None:
        if job.keeps:
            self.instance.prefill.in_flight -= 1
        self.ended.succeed()
