# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""ucxx from Python: its core interface has no one-sided reads, so a block is a tagged message to where it belongs.

The reader posts its receives and sends the numbers of the units it wants, the owner sends those; a bounded number is in
flight on each side. Both let UCX work while they wait: ucxx's progress threads were seen to halve the speed.
"""

from __future__ import annotations

import importlib
import time
from collections import deque
from importlib.metadata import distributions
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from kvdirect_bench.errors import BenchError

from .base import Facts, Owner, Reader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvdirect_bench.block_ids import Ids
    from kvdirect_bench.storage import Bytes

# ucxx's classes are not typed.
Theirs: TypeAlias = Any

_HELLO, _ASK, _UNIT = 1, 2, 3
_IN_FLIGHT = 64


class _Node:
    """One process's worker, and what it waits for."""

    def __init__(self, deadline: float) -> None:
        try:
            self._api = importlib.import_module("ucxx._lib.libucxx")
            self._array = importlib.import_module("ucxx._lib.arr").Array
        except ImportError as error:
            raise BenchError(f"ucxx cannot be imported: {error}; `make bench-peers` installs it") from error
        context = self._api.UCXContext(feature_flags=(self._api.Feature.TAG,))
        self.worker = self._api.UCXWorker(context)
        self._seconds = deadline
        self._tags = {number: self._api.UCXXTag(number) for number in (_HELLO, _ASK, _UNIT)}
        self._endpoint: Theirs = None

    def address(self) -> bytes:
        """What the other process connects to."""
        told: bytes = self.worker.address.tobytes()
        return told

    def connect(self, address: bytes) -> None:
        """Send to that worker from now on."""
        there = self._api.UCXAddress.create_from_buffer(address)
        # With UCX's error handling they go by TCP within a host too: a fifth as fast.
        self._endpoint = self._api.UCXEndpoint.create_from_worker_address(
            self.worker, there, endpoint_error_handling=False
        )

    def wrap(self, memory: Bytes | Ids) -> Theirs:
        """As ucxx wants memory."""
        return self._array(memory)

    def units(self, memory: Bytes, unit_bytes: int, numbers: Ids) -> list[Theirs]:
        """Those units of a memory, as ucxx wants them."""
        return [self._array(memory[at : at + unit_bytes]) for at in (numbers * unit_bytes).tolist()]

    def send(self, what: Theirs, tag: int) -> Theirs:
        """Post a message."""
        return self._endpoint.tag_send(what, self._tags[tag])

    def receive(self, what: Theirs, tag: int) -> Theirs:
        """Post a receive."""
        return self.worker.tag_recv(what, self._tags[tag])

    def arrived(self, tag: int) -> int:
        """Bytes of the next message that nobody awaits; 0: there is none."""
        found = self.worker.tag_probe(self._tags[tag])
        return int(found.length) if found.matched else 0

    def deadline(self) -> float:
        """Of what begins now."""
        return time.perf_counter() + self._seconds

    def settle(self, flying: deque[Theirs], most: int, deadline: float) -> None:
        """Wait until at most so many requests are in flight."""
        while len(flying) > most:
            self.worker.progress()
            while flying and flying[0].completed:
                flying.popleft().check_error()
            if time.perf_counter() > deadline:
                raise BenchError(f"ucxx did not finish within {self._seconds:.0f} s")


class UcxxOwner(Owner):
    """Sends the units that it is asked for."""

    def start(self) -> Facts:
        """Where its worker is."""
        self._node = _Node(self.settings.deadline)
        everything = np.arange(self.memory.nbytes // self.workload.unit_bytes)
        self._units = self._node.units(self.memory, self.workload.unit_bytes, everything)
        self._wanted = np.zeros(self.workload.units, dtype=np.int64)
        self._ask: Theirs | None = None
        return {"address": self._node.address().hex()}

    def idle(self) -> float:
        """Let UCX work, and see what the reader wants."""
        self._node.worker.progress()
        if self._ask is None:
            self._greet()
        elif self._ask.completed:
            self._ask.check_error()
            self._answer()
            self._await_ask()
        return 0.0

    def _greet(self) -> None:
        size = self._node.arrived(_HELLO)
        if size == 0:
            return
        address = np.zeros(size, dtype=np.uint8)
        hello = self._node.receive(self._node.wrap(address), _HELLO)
        self._node.settle(deque([hello]), 0, self._node.deadline())
        self._node.connect(address.tobytes())
        self._await_ask()

    def _await_ask(self) -> None:
        self._ask = self._node.receive(self._node.wrap(self._wanted), _ASK)

    def _answer(self) -> None:
        if int(self._wanted.min()) < 0 or int(self._wanted.max()) >= len(self._units):
            raise BenchError("ucxx's reader asks for what is outside of the memory")
        deadline = self._node.deadline()
        flying: deque[Theirs] = deque()
        for number in self._wanted.tolist():
            flying.append(self._node.send(self._units[number], _UNIT))
            self._node.settle(flying, _IN_FLIGHT - 1, deadline)
        self._node.settle(flying, 0, deadline)


class UcxxReader(Reader):
    """Receives units into their places."""

    def start(self, invitation: Mapping[str, Any]) -> Facts:
        """Connect, and say where this side is."""
        self._node = _Node(self.settings.deadline)
        self._node.connect(bytes.fromhex(invitation["address"]))
        address = np.frombuffer(self._node.address(), dtype=np.uint8).copy()
        hello = self._node.send(self._node.wrap(address), _HELLO)
        self._node.settle(deque([hello]), 0, self._node.deadline())
        return {"lane": "ucx", "version": _release()}

    def aim(self, seed: int, offer: Mapping[str, Any]) -> None:
        """The wanted units' numbers, and the places where they belong."""
        del offer
        source, target = self.workload.unit_tables(seed)
        self._wanted = self._node.wrap(source)
        self._places = self._node.units(self.memory, self.workload.unit_bytes, target)

    def pull(self) -> float:
        """Post receives, ask, and post more as units come in."""
        began = time.perf_counter()
        node, deadline = self._node, self._node.deadline()
        flying: deque[Theirs] = deque(node.receive(place, _UNIT) for place in self._places[:_IN_FLIGHT])
        ask = node.send(self._wanted, _ASK)
        posted = time.perf_counter()
        for place in self._places[_IN_FLIGHT:]:
            node.settle(flying, _IN_FLIGHT - 1, deadline)
            flying.append(node.receive(place, _UNIT))
        node.settle(flying, 0, deadline)
        node.settle(deque([ask]), 0, deadline)
        return posted - began


def _release() -> str:
    names = (one for one in distributions() if one.name.startswith("ucxx-"))
    return next((f"{one.version} ({one.name})" for one in names), "unknown")


OWNER = UcxxOwner
READER = UcxxReader
