# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""One engine in a process of its own, driven by JSON lines on stdin and answering on stdout.

A command is {"do": name, ...arguments}; an answer is {"value": ...} or {"error": class, "message": text}.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import kvtransfer as kt
from kvtransfer import testing

from .layout import RDMA_HERE, Cache, Layout, digest, publish, shared

if TYPE_CHECKING:
    from collections.abc import Callable


class Agent:
    """Holds an engine, its cache, its peers and its pulls; every public method is a command."""

    def __init__(self) -> None:
        self._engine: kt.Engine | None = None
        self._cache: Cache = np.zeros(1, dtype=np.uint32)
        self._peers: dict[int, kt.Peer] = {}
        self._held: list[int] = []
        self._others: list[kt.Engine] = []

    @property
    def engine(self) -> kt.Engine:
        assert self._engine is not None, "start comes first"
        return self._engine

    def start(
        self, name: str, seed: int, layout: dict[str, Any], config: dict[str, Any], *, share: bool = True
    ) -> dict[str, Any]:
        if "admission" in config:
            config["admission"] = bytes.fromhex(config["admission"])
        testing.rdma_over(config.pop("rdma_over", RDMA_HERE))
        self._engine = kt.Engine(kt.EngineConfig(**config), name=name)
        shape = Layout(**layout)
        cache = shape.make(seed)
        self._cache = shared(cache) if share else cache
        publish(self._engine, self._cache, layout=shape)
        return {"descriptor": self._engine.descriptor().hex(), "incarnation": self._engine.incarnation}

    def start_another(self) -> str:
        """One more engine in this process, with nothing to read; its descriptor."""
        another = kt.Engine(name="another")
        publish(another, Layout().make(1))
        self._others.append(another)
        return another.descriptor().hex()

    def grant(
        self,
        tables: list[list[int]],
        lease: list[int] | None = None,
        watermark: int | None = None,
        term: float | None = None,
    ) -> list[int]:
        known = None if lease is None else kt.LeaseRef(*lease)
        granted = self.engine.grant(tables, lease=known, watermark=watermark, term=term)
        return [granted.slot, granted.epoch]

    def raise_watermark(self, lease: list[int], positions: int) -> None:
        self.engine.raise_watermark(kt.LeaseRef(*lease), positions)

    def start_term(self, lease: list[int], term: float) -> None:
        self.engine.start_term(kt.LeaseRef(*lease), term)

    def revoke(self, lease: list[int]) -> bool:
        return self.engine.revoke(kt.LeaseRef(*lease))

    def revoke_and_overwrite(self, lease: list[int], blocks: list[int], value: int) -> bool:
        """What an owner does that gives up: end the lease, take the end, reuse the blocks."""
        revoked = self.engine.revoke(kt.LeaseRef(*lease))
        self.engine.take_ended()
        self._cache[:, :, blocks] = value
        return revoked

    def give_up(self, lease: list[int], delay: float, value: int) -> None:
        """After `delay` seconds revoke, then overwrite everything from the end: what a pull reads last goes first."""
        time.sleep(delay)
        self.engine.revoke(kt.LeaseRef(*lease))
        self.engine.take_ended()
        for part in reversed(self._cache):
            for layer in reversed(part):
                layer[:] = value

    def overwrite(self, blocks: list[int], value: int) -> None:
        self._cache[:, :, blocks] = value

    def take_ended(self) -> list[list[Any]]:
        return [[end.lease.slot, end.lease.epoch, end.reason] for end in self.engine.take_ended()]

    def wait_ended(self, timeout: float) -> list[list[Any]]:
        """The next ends, or none when `timeout` passed."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if ends := self.take_ended():
                return ends
            time.sleep(0.02)
        return []

    def live(self) -> int:
        return self.engine.live_leases

    def counters(self) -> dict[str, int]:
        return self.engine.counters()

    def take_notes(self) -> list[tuple[str, int, str]]:
        return [(note.reader, note.incarnation, note.body.hex()) for note in self.engine.take_notes()]

    def digest(self) -> str:
        return digest(self._cache)

    def cache_address(self) -> int:
        return int(self._cache.__array_interface__["data"][0])

    def connect(self, descriptor: str, lanes: list[str] | None = None) -> dict[str, Any]:
        peer = self.engine.connect(bytes.fromhex(descriptor), lanes=lanes)
        self._peers[peer.incarnation] = peer
        return {"incarnation": peer.incarnation, "lane": peer.lane, "lanes": list(peer.lanes)}

    def pull(
        self, peer: int, lease: list[int], remote: list[int], local: list[int], stop: int, timeout: float = 20.0
    ) -> dict[str, Any]:
        pull = self._peers[peer].pull(kt.LeaseRef(*lease), [remote], [local], stop=stop, timeout=timeout)
        result = pull.wait()
        return {"bytes": result.bytes, "lane": result.lane}

    def alive(self, peer: int) -> bool:
        return self._peers[peer].alive

    def hold(self, peer: int, lease: list[int], term: float) -> None:
        self._peers[peer].hold(kt.LeaseRef(*lease), term=term)

    def complete(self, peer: int, lease: list[int], readers: int) -> None:
        self._peers[peer].complete(kt.LeaseRef(*lease), readers=readers)

    def stall_next_pull(self, file: str) -> None:
        testing.stall_next_pull(file)

    def limit_descriptors(self, most: int) -> int:
        """RLIMIT_NOFILE; how many are open now."""
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        return len(list(Path("/proc/self/fd").iterdir()))

    def use_up_descriptors(self) -> int:
        """Open files until there is no descriptor left; how many that took."""
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        while True:
            try:
                self._held.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                return len(self._held)

    def give_descriptors_back(self) -> None:
        while self._held:
            os.close(self._held.pop())

    def fork_a_sleeper(self) -> int:
        """A child that does nothing for a minute, and has whatever a fork leaves it; its pid."""
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        return child

    def forget_memory_peak(self) -> int:
        """From now on the peak is what is used now, in bytes."""
        Path("/proc/self/clear_refs").write_text("5")
        return self.memory_peak()

    def memory_peak(self) -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def cpu_seconds(self) -> float:
        return time.process_time()

    def close(self) -> None:
        self.engine.close()


def serve(make: Callable[[], object]) -> None:
    """Answer commands with what `make` makes, until there are no more."""
    # Libraries log to standard output: keep that one for answers and let everything else go to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    agent = make()
    for line in sys.stdin:
        command = json.loads(line)
        name = command.pop("do")
        try:
            answer = {"value": getattr(agent, name)(**command)}
        except Exception as error:  # noqa: BLE001  (whatever it is, the test must see it)
            answer = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(Agent)
