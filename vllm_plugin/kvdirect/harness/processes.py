# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The processes of the demo: real vLLM engines and the router, each in a process group that dies with it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import httpx

from .http_client import http

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

# Settings without which vLLM on a CPU grabs all memory or pins every engine to the same core. GPUs ignore them.
CPU_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
_PICKED_BY_THE_KERNEL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST_PORT = 10240
# Sockets of ports that free_port() gave out; the oldest are let go.
_KEPT_PORTS: deque[contextlib.ExitStack] = deque(maxlen=256)
# Between two looks at whether a process is still there; and for one that is about to end, after a request broke off.
_LOOK_EVERY = 0.5
_ENDS_WITHIN = 2.0

Result = TypeVar("Result")


class StartError(RuntimeError):
    """A process ended too early or did not get ready; the message ends with the last lines of its log."""


def free_port(neighbours: int = 1) -> int:
    """A TCP port of 127.0.0.1 that nothing listens on, the first of so many in a row, kept for who will listen there.

    This process stays bound to it without listening: until an engine listens, minutes later, the kernel gives it to no
    connection and nobody's free_port() finds it. A server that sets SO_REUSEADDR, as all do that we start, may take it.
    Nor is it one that the kernel picks, where the picks of other programs are soon in use.
    """
    picked = int(_PICKED_BY_THE_KERNEL.read_text().split()[0])
    for _ in range(1000):
        port = secrets.choice(range(_LOWEST_PORT, max(picked, _LOWEST_PORT + 1000)))
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for number in range(port, port + neighbours):
                sock = stack.enter_context(socket.socket())
                sock.bind(("127.0.0.1", number))
                # After the bind: before it, one that somebody else keeps in this way would do.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _KEPT_PORTS.append(stack.pop_all())
            return port
    raise StartError(f"no free TCP port on 127.0.0.1 between {_LOWEST_PORT} and {picked}; stop what listens there")


@dataclass
class ManagedProcess:
    """One started program, its log file, and the URL it will answer on."""

    name: str
    command: Sequence[str]
    url: str
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    wanted_status: str = ""  # of the JSON that /health answers, where it answers any
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it as the leader of a new process group, so that stop() reaches everything it starts in turn."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log, _signals_held():
            self._process = subprocess.Popen(  # noqa: S603  (the command is ours)
                list(self.command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    def ready(self) -> bool:
        """Whether /health answers 2xx, and the status that is wanted. Raises StartError if the process has ended."""
        self.check()
        with contextlib.suppress(httpx.HTTPError):
            answer = http().get(f"{self.url}/health", timeout=2.0)
            return answer.is_success and (not self.wanted_status or answer.json()["status"] == self.wanted_status)
        return False

    def check(self) -> None:
        """Raise StartError if the process has ended, or never began."""
        if self._process is None:
            raise StartError(f"{self.name} was not started")
        if self._process.poll() is not None:
            raise StartError(f"{self.name} ended with status {self._process.returncode}; {self.last_words()}")

    def last_words(self, lines: int = 15) -> str:
        """The end of its log, for an error message."""
        tail = self.log.read_text(errors="replace").splitlines()[-lines:] if self.log.exists() else []
        return f"the end of {self.log}:\n    " + "\n    ".join(tail)

    @property
    def group(self) -> int:
        """Its process group; 0 before it was started."""
        return self._process.pid if self._process is not None else 0

    def ask_to_stop(self) -> None:
        """SIGTERM to the leader, which stops its own children in order."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def stop(self, grace: float = 15.0) -> None:
        """Wait for it to end, at most `grace` seconds, then SIGKILL whatever its group still holds."""
        if self._process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)
        # SIGKILL is only a request: the rest of the group still holds its memory and ports for a moment.
        deadline = time.monotonic() + 10
        while alive_in_group(self._process.pid) and time.monotonic() < deadline:
            time.sleep(0.02)


def alive_in_group(group: int) -> bool:
    """Whether the process group has a member that is not just waiting to be reaped."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # After the name in brackets: state, parent, group. (proc(5))
            state, _parent, member_of = stat.read_text().rpartition(")")[2].split()[:3]
            if int(member_of) == group and state != "Z":
                return True
    return False


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """SIGINT and SIGTERM act after the block: between fork and return, nobody would know the child to end it.

    They interrupt the main thread, and no other.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    both = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, lambda number, _frame: held.append(number)) for number in both}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


def say(text: str) -> None:
    """One line of progress."""
    print(f"demo: {text}", flush=True)


class ProcessSet:
    """Starts processes together, waits for all of them, and leaves none behind."""

    def __init__(
        self, processes: Iterable[ManagedProcess], *, deadline: float, say: Callable[[str], None] = say
    ) -> None:
        self.processes = list(processes)
        self._deadline = deadline
        self._say = say

    def __enter__(self) -> Self:
        try:
            self._start_all()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, Exception) and not isinstance(error, StartError):
                self._look_for_the_cause(error)
        finally:
            self.stop()

    def run(self, calls: Sequence[Callable[[], Result]], *, at_once: int) -> list[Result]:
        """What calls that wait for the processes come to, in order; so many are made at a time.

        Raises:
            StartError: A process has ended. Calls that wait for its answer are left alone: they end with the others.
            Exception: A call's.
        """
        threads = ThreadPoolExecutor(at_once)
        try:
            jobs = [threads.submit(call) for call in calls]
            waiting = set(jobs)
            while waiting:
                done, waiting = wait(waiting, timeout=_LOOK_EVERY, return_when=FIRST_EXCEPTION)
                self._check()
                for job in done:
                    job.result()
            return [job.result() for job in jobs]
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _check(self) -> None:
        for process in self.processes:
            process.check()

    def _look_for_the_cause(self, error: Exception) -> None:
        """A request that broke off may be the first sign that its engine has ended: then that is the error."""
        deadline = time.monotonic() + _ENDS_WITHIN
        while time.monotonic() < deadline:
            try:
                self._check()
            except StartError as ended:
                raise ended from error
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop all, in parallel; a second Ctrl-C while this runs only shortens the grace period."""
        grace = 15.0
        try:
            for process in self.processes:
                process.ask_to_stop()
        except KeyboardInterrupt:
            grace = 0.0
        for process in self.processes:
            while True:
                try:
                    process.stop(grace)
                    break
                except KeyboardInterrupt:
                    grace = 0.0

    def _start_all(self) -> None:
        began = last_report = time.monotonic()
        waiting = list(self.processes)
        for process in waiting:
            process.start()
        while waiting:
            for process in [p for p in waiting if p.ready()]:
                waiting.remove(process)
                self._say(f"{process.name} is ready after {time.monotonic() - began:.0f} s")
            now = time.monotonic()
            if waiting and now - began > self._deadline:
                late = waiting[0]
                raise StartError(f"{late.name} was not ready after {self._deadline:.0f} s; {late.last_words()}")
            if waiting and now - last_report > 10:
                last_report = now
                self._say(f"waiting for {', '.join(p.name for p in waiting)} ({now - began:.0f} s)")
            time.sleep(0.1)


def vllm_engine(
    name: str,
    model: str,
    folder: Path,
    *,
    options: Sequence[str] = (),
    transfer: Mapping[str, object] | None = None,
    offline: bool = False,
    python: str = sys.executable,
) -> ManagedProcess:
    """A vLLM OpenAI server on a free loopback port; `transfer` is its --kv-transfer-config, `python` has its vLLM."""
    port = free_port()
    command = [
        *(python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", "demo"),
        *("--host", "127.0.0.1", "--port", str(port), "--enforce-eager", "--max-num-seqs", "8"),
        *options,
    ]
    if transfer is not None:
        command += ["--kv-transfer-config", json.dumps(transfer)]
    environment = {**CPU_ENVIRONMENT, **({"HF_HUB_OFFLINE": "1"} if offline else {})}
    return ManagedProcess(name, command, f"http://127.0.0.1:{port}", folder / f"{name}.log", environment)


def router(
    prefill: ManagedProcess | None,
    decode: ManagedProcess,
    folder: Path,
    name: str = "router",
    *,
    options: Sequence[str] = (),
) -> ManagedProcess:
    """`kvdirect proxy` in front of one prefill and one decode engine, or of one engine that does both."""
    port = free_port()
    command = [sys.executable, "-m", "kvdirect", "proxy", "--host", "127.0.0.1", "--port", str(port), *options]
    command += ["--decode", decode.url]
    if prefill is not None:
        status = "ok"  # not "degraded": it must have seen that engine alive
        command += ["--prefill", prefill.url]
    else:
        # A router waits for its first prefill engine only where one could join.
        status, token = "degraded", folder / f"{name}.token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        command += ["--admin-token-file", str(token)]
    return ManagedProcess(name, command, f"http://127.0.0.1:{port}", folder / f"{name}.log", wanted_status=status)
