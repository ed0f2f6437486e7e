# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Starting the example's processes, and starting stores anew that died: by multiprocessing, or by Ray."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess
    from pathlib import Path

LOOK = 0.05
GRACE = 15.0  # seconds to end by itself


class Launcher(Protocol):
    """What starts processes that run a function of this package with plain settings."""

    def start(self, name: str, function: Callable[[Any], None], settings: object, *, again: bool = False) -> None:
        """Start one; `again`: as often as it dies before all is stopped."""

    def kill(self, name: str) -> None:
        """End one as a crash would."""

    def running(self, name: str) -> bool:
        """Whether one has not ended yet."""

    def join(self, name: str, seconds: float) -> None:
        """Wait until one has done its work.

        Raises:
            RuntimeError: It failed.
            TimeoutError: It has not within that time.
        """

    def stop(self) -> None:
        """End all."""


def run(folder: Path, name: str, function: Callable[[Any], None], settings: object) -> None:
    """What a started process does."""
    (folder / f"{name}.pid").write_text(str(os.getpid()))
    function(settings)


class SpawnLauncher:
    """Processes of this one, by `multiprocessing`; engines do not survive a fork, so they are spawned."""

    def __init__(self, folder: Path) -> None:
        """`folder`: where the processes meet."""
        self._folder = folder
        self._context = multiprocessing.get_context("spawn")
        self._running: dict[str, BaseProcess] = {}
        self._jobs: dict[str, tuple[Callable[[Any], None], object]] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def start(self, name: str, function: Callable[[Any], None], settings: object, *, again: bool = False) -> None:
        """As said there."""
        with self._lock:
            if again:
                self._jobs[name] = (function, settings)
            self._spawn(name, function, settings)

    def _spawn(self, name: str, function: Callable[[Any], None], settings: object) -> None:
        process = self._context.Process(
            target=run, args=(self._folder, name, function, settings), name=name, daemon=True
        )
        process.start()
        self._running[name] = process

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK):
            with self._lock:
                if self._stopped.is_set():
                    return
                for name, job in self._jobs.items():
                    if not self._running[name].is_alive():
                        print(f"graph: {name} died ({self._running[name].exitcode}), and is started anew", flush=True)
                        self._spawn(name, *job)

    def kill(self, name: str) -> None:
        """As said there."""
        with self._lock:
            self._running[name].kill()

    def running(self, name: str) -> bool:
        """As said there."""
        return self._running[name].is_alive()

    def join(self, name: str, seconds: float) -> None:
        """As said there."""
        process = self._running[name]
        process.join(seconds)
        if process.exitcode is None:
            raise TimeoutError(f"{name} is not done within {seconds:g} s")
        if process.exitcode:
            raise RuntimeError(f"{name} failed with exit status {process.exitcode}; what it said stands above")

    def stop(self) -> None:
        """As said there; who does not end in time is killed."""
        self._stopped.set()
        (self._folder / "stop").touch()
        deadline = time.monotonic() + GRACE
        with self._lock:
            for process in self._running.values():
                process.join(max(0.0, deadline - time.monotonic()))
                if process.is_alive():
                    process.kill()
                    process.join()
                process.close()
            self._running.clear()


class RayLauncher:
    """Tasks of Ray on this node; one that dies is run again by Ray itself."""

    def __init__(self, folder: Path, path: str) -> None:
        """`folder`: where the processes meet. `path`: where this package lies."""
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray  # noqa: PLC0415  (only where it is asked for)

        self._ray, self._folder = ray, folder
        self._running: dict[str, Any] = {}
        ray.init(
            num_cpus=16,  # counted, and bound to none
            include_dashboard=False,
            object_store_memory=128 << 20,
            runtime_env={"env_vars": {"PYTHONPATH": path}},
        )

    def start(self, name: str, function: Callable[[Any], None], settings: object, *, again: bool = False) -> None:
        """As said there."""
        task = self._ray.remote(num_cpus=1, max_retries=-1 if again else 0)(run)
        self._running[name] = task.options(name=name).remote(self._folder, name, function, settings)

    def kill(self, name: str) -> None:
        """As said there."""
        os.kill(int((self._folder / f"{name}.pid").read_text()), signal.SIGKILL)

    def running(self, name: str) -> bool:
        """As said there."""
        done, _ = self._ray.wait([self._running[name]], timeout=0)
        return not done

    def join(self, name: str, seconds: float) -> None:
        """As said there."""
        try:
            self._ray.get(self._running[name], timeout=seconds)
        except self._ray.exceptions.GetTimeoutError as error:
            raise TimeoutError(f"{name} is not done within {seconds:g} s") from error
        except self._ray.exceptions.RayError as error:
            raise RuntimeError(f"{name} failed: {error}") from error

    def stop(self) -> None:
        """As said there."""
        (self._folder / "stop").touch()
        self._ray.wait(list(self._running.values()), num_returns=len(self._running), timeout=GRACE)
        self._ray.shutdown()
