# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""NIXL's UCX backend: prepared descriptor lists, a READ of the wanted ones, polled until done.

The variant is "threads" (its default: a progress thread on each side) or "poll" (without, the faster setting where
cores are few). What it may travel over is set by UCX_TLS in this process's environment.
"""

from __future__ import annotations

import importlib
import time
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from kvdirect_bench.errors import BenchError
from kvdirect_bench.memory import address_of

from .base import Facts, Owner, Reader, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from kvdirect_bench.storage import Bytes

_DISTRIBUTIONS = ("nixl", "nixl-cu13", "nixl-cu12")
_KINDS = {"cpu": "DRAM", "cuda": "VRAM"}
# Without a progress thread nobody answers a new reader unless the owner looks; afterwards reads need it no more.
_LOOK_EVERY = 0.002


def _agent(name: str, settings: Settings) -> Any:  # noqa: ANN401  (NIXL's classes are not typed)
    try:
        api = importlib.import_module("nixl._api")
    except ImportError as error:
        raise BenchError(f"NIXL cannot be imported: {error}; `make bench-peers` installs it") from error
    config = api.nixl_agent_config(enable_prog_thread=settings.variant == "threads", backends=["UCX"])
    return api.nixl_agent(name, config)


def _register(agent: Any, memory: Bytes, kind: str) -> Any:  # noqa: ANN401
    # The third is the number of the GPU, of those that this process sees.
    return agent.register_memory([(address_of(memory), memory.nbytes, 0, "")], kind)


def _descriptors(base: int, size: int, unit_bytes: int) -> npt.NDArray[np.uint64]:
    """Address, length and device of every unit of a memory."""
    rows = np.zeros((size // unit_bytes, 3), dtype=np.uint64)
    rows[:, 0] = base + np.arange(len(rows), dtype=np.int64) * unit_bytes
    rows[:, 1] = unit_bytes
    return rows


def _release() -> str:
    for name in _DISTRIBUTIONS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"


class NixlOwner(Owner):
    """Registers its memory, and hands out where it is."""

    def start(self) -> Facts:
        """Metadata and address."""
        self._agent = _agent("bench-owner", self.settings)
        self._registered = _register(self._agent, self.memory, _KINDS[self.workload.device])
        metadata = self._agent.get_agent_metadata()
        return {"metadata": metadata.hex(), "base": address_of(self.memory), "size": self.memory.nbytes}

    def idle(self) -> float | None:
        """Let UCX answer, where no thread does."""
        if self.settings.variant == "threads":
            return None
        self._agent.get_new_notifs()
        return _LOOK_EVERY

    def close(self) -> None:
        """NIXL wants its agent gone before the interpreter ends."""
        self._agent.deregister_memory(self._registered)
        del self._agent


class NixlReader(Reader):
    """Reads units by their numbers in two prepared lists."""

    def start(self, invitation: Mapping[str, Any]) -> Facts:
        """Connect, and prepare a descriptor for every unit of both sides."""
        unit, kind = self.workload.unit_bytes, _KINDS[self.workload.device]
        self._agent = _agent("bench-reader", self.settings)
        self._registered = _register(self._agent, self.memory, kind)
        name = self._agent.add_remote_agent(bytes.fromhex(invitation["metadata"]))
        if isinstance(name, bytes):
            name = name.decode()
        ours = _descriptors(address_of(self.memory), self.memory.nbytes, unit)
        theirs = _descriptors(int(invitation["base"]), int(invitation["size"]), unit)
        self._local = self._agent.prep_xfer_dlist("NIXL_INIT_AGENT", ours, kind)
        self._remote = self._agent.prep_xfer_dlist(name, theirs, kind)
        return {"lane": "ucx", "version": _release()}

    def aim(self, seed: int, offer: Mapping[str, Any]) -> None:
        """Numbers of the units in the two lists."""
        del offer
        source, target = self.workload.unit_tables(seed)
        self._from = source.astype(np.int32)
        self._to = target.astype(np.int32)

    def pull(self) -> float:
        """Make the transfer, post it, poll it, release it."""
        began = time.perf_counter()
        agent = self._agent
        handle = agent.make_prepped_xfer("READ", self._local, self._to, self._remote, self._from)
        state = agent.transfer(handle)
        posted = time.perf_counter()
        while state == "PROC":
            state = agent.check_xfer_state(handle)
            if time.perf_counter() - began > self.settings.deadline:
                raise BenchError(f"NIXL did not finish a pull within {self.settings.deadline:.0f} s")
        if state != "DONE":
            raise BenchError(f"NIXL's transfer ended as {state}")
        agent.release_xfer_handle(handle)
        return posted - began

    def close(self) -> None:
        """NIXL wants its agent gone before the interpreter ends."""
        self._agent.release_dlist_handle(self._local)
        self._agent.release_dlist_handle(self._remote)
        self._agent.deregister_memory(self._registered)
        del self._agent


OWNER = NixlOwner
READER = NixlReader
