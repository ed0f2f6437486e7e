# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""One engine with its cache on a GPU, in a process of its own; see transfer/agent.py for how it is driven."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import time
from typing import Any

import numpy as np
from transfer.agent import serve

import kvtransfer as kt
from kvtransfer import testing

from .gpu_layout import GpuLayout

SIMULATED = os.environ.get("KVDIRECT_TESTS_CUDA_DRIVER", "")


class Disguised:
    """Host memory with the interface of a CUDA array."""

    def __init__(self) -> None:
        self._memory = np.zeros(1 << 16, dtype=np.uint8)
        self.__cuda_array_interface__ = {**self._memory.__array_interface__, "version": 3}


class Agent:
    """Holds an engine, its cache, a stream, a peer and its pulls; every public method is a command."""

    def start(
        self,
        name: str,
        seed: int,
        layout: dict[str, Any],
        config: dict[str, Any],
        pieces: int = 0,
        exportable: bool = True,
        disguised: bool = False,
        spare: bool = False,
    ) -> dict[str, Any]:
        """An engine with a cache on the GPU.

        Args:
            disguised: It is in host memory that says it were there.
            spare: A second region of the same size is in host memory, and no component in it.
        """
        self._layout = GpuLayout(**layout)
        self._memory = testing.device_bytes(self._layout.size, pieces=pieces, exportable=exportable)
        self._memory.write(0, self._layout.to_memory(self._layout.random(seed)))
        self._stream = testing.device_stream()
        self._engine = kt.Engine(kt.EngineConfig(**config), name=name)
        region = self._engine.register(Disguised() if disguised else self._memory)
        if spare:
            self._engine.register(np.zeros(self._layout.size, dtype=np.uint8))
        self._engine.publish(kt.TensorMap([self._layout.component(region)]))
        return {"descriptor": self._engine.descriptor().hex(), "problems": self._engine.lane_problems}

    def connect(self, descriptor: str) -> list[str]:
        self._peer = self._engine.connect(bytes.fromhex(descriptor), timeout=20)
        return list(self._peer.lanes)

    def lane_summary(self) -> str:
        return self._peer.lane_summary

    def rdma_over(self, transports: str) -> None:
        testing.rdma_over(transports)

    def connect_within(self) -> str:
        """Another engine of this process, and why it cannot read from the first."""
        memory = testing.device_bytes(self._layout.size)
        with kt.Engine(kt.EngineConfig(), name="second") as second:
            second.publish(kt.TensorMap([self._layout.component(second.register(memory))]))
            try:
                second.connect(self._engine.descriptor(), require_lane="cuda_ipc", timeout=20)
            except kt.LaneError as error:
                return str(error)
        return ""

    def grant(self, blocks: list[int], watermark: int) -> list[int]:
        lease = self._engine.grant([blocks], watermark=watermark)
        return [lease.slot, lease.epoch]

    def write_later(self, leases: list[list[int]], positions: int, seed: int, delay: float) -> None:
        """A forward that takes `delay` seconds: new contents, then watermarks, and back at once."""
        self._stream.write(self._memory, 0, self._layout.to_memory(self._layout.random(seed)), delay)
        self._engine.raise_watermarks(
            [(kt.LeaseRef(*lease), positions) for lease in leases], stream=self._stream.handle
        )

    def pull(
        self,
        lease: list[int],
        remote: list[int],
        local: list[int],
        stop: int,
        start: int = 0,
        timeout: float = 20.0,
        busy: float = 0.0,
        fence: bool = False,
    ) -> dict[str, Any]:
        """Pull and wait; with `busy`, into blocks that a stream writes zeroes to in so many seconds.

        With `fence` it waits for the engine's own stream instead, which has nothing to do.
        """
        stream = None
        if busy > 0:
            self._stream.write(self._memory, 0, bytes(self._layout.size), busy)
            stream = self._engine.fence_stream if fence else self._stream.handle
        begun = time.monotonic()
        pull = self._peer.pull(
            kt.LeaseRef(*lease), [remote], [local], start=start, stop=stop, timeout=timeout, stream=stream
        )
        result = pull.wait()
        return {
            "bytes": result.bytes,
            "runs": result.runs,
            "lane": result.lane,
            "seconds": time.monotonic() - begun,
        }

    def start_pull(self, lease: list[int], remote: list[int], local: list[int], stop: int, timeout: float) -> None:
        self._pull = self._peer.pull(kt.LeaseRef(*lease), [remote], [local], stop=stop, timeout=timeout)

    def cancel_pull(self) -> None:
        self._pull.cancel()

    def pull_is_quiet(self) -> bool:
        return self._pull.quiet

    def end_of_pull(self) -> int:
        return self._pull.wait().bytes

    def contents(self) -> str:
        return self._memory.read(0, self._layout.size).hex()

    def revoke(self, lease: list[int]) -> bool:
        return self._engine.revoke(kt.LeaseRef(*lease))

    def stall_next_pull(self, file: str) -> None:
        testing.stall_next_pull(file)

    def alive(self) -> bool:
        return self._peer.alive

    def close_peer(self) -> None:
        self._peer.close()

    def close(self) -> None:
        self._engine.close()

    def forget(self) -> None:
        """Let go of everything that a test has made."""
        vars(self).clear()
        gc.collect()

    def fork_and_forget(self, within: float) -> int:
        """Let go of everything in a forked child; its exit status, or -1 if it is not through in time."""
        child = os.fork()
        if child == 0:
            self.forget()
            os._exit(0)
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return -1

    def engine_in_a_fork(self) -> int:
        """Make an engine in a forked child, and close it; the child's exit status."""
        child = os.fork()
        if child == 0:
            kt.Engine(kt.EngineConfig(lanes=["message"]), name="child").close()
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def live(self, kind: str) -> int:
        """How many of a kind the simulated driver has handed out and not got back."""
        count = ctypes.CDLL(SIMULATED).kvdirect_sim_live
        return int(count(kind.encode()))


def make_agent() -> Agent:
    if SIMULATED:
        testing.use_cuda_driver(SIMULATED)
    return Agent()


if __name__ == "__main__":
    serve(make_agent)
