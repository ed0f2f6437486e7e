# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Processes forked from one that has imported what they need: importing it takes longer than most tests.

Such a process is what `python -m MODULE` would be: of its own memory, descriptors, signals and exit status, with an
engine, router or connections only if it makes some. Those of a kind are forked from several in turn, so that memory of
the processes of a test lies at different addresses in each, as after exec.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections import Counter
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Kinds of processes that are forked, at most, and from how many: each is of 40 MiB. The rest is started anew.
MOST = 6
IN_TURN = 3
# How many of a kind are started anew before it is worth it.
ANEW = 3
# Seconds for importing on a loaded machine, and for a fork.
PATIENCE = 300.0
# Variables that are read, if at all, by what a process does once it has been forked; they make no other kind.
_LATE = ("KVDIRECT_", "CUDA_", "PYTEST_")

_Key = tuple[Any, ...]
_asked: Counter[_Key] = Counter()
_nurseries: dict[_Key, list[Nursery]] = {}


class Forked:
    """The part of a subprocess.Popen that tests use."""

    def __init__(self, nursery: Nursery, words: Sequence[str], late: Mapping[str, str], *, merged: bool) -> None:
        """Fork, with the late variables, and pipes for standard input and output, to which errors go if `merged`."""
        self._nursery = nursery
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        self.stdin: IO[bytes] = os.fdopen(ours_in, "wb", buffering=0)
        self.stdout: IO[bytes] = os.fdopen(ours_out, "rb", buffering=0)
        try:
            order = {"words": list(words), "late": dict(late)}
            self.pid = nursery.ask(order, [theirs_in, theirs_out, theirs_out if merged else 2])
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        self._end = os.pidfd_open(self.pid)
        weakref.finalize(self, os.close, self._end)
        self._reaping = threading.Lock()
        self.returncode: int | None = None

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            ended = select.poll()
            ended.register(self._end, select.POLLIN)
            if not ended.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            with self._reaping:
                if self.returncode is None:
                    self.returncode = self._nursery.status(self.pid)
        return self.returncode

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._end, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The process that is forked, as a test process sees it."""

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str], folder: str) -> None:
        atexit.register(self.close)
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(PATIENCE)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), *modules],
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )

    def ask(self, order: Mapping[str, object], descriptors: Sequence[int] = ()) -> int:
        with self._lock:
            try:
                socket.send_fds(self._control, [json.dumps(order).encode()], descriptors)
                answer = self._control.recv(4096)
            except OSError:
                self._control.close()  # What comes late is no answer to the next order.
                raise
        if not answer:
            raise EOFError(f"the process to be forked ended with {self._process.wait(PATIENCE)}")
        return int(json.loads(answer))

    def close(self) -> None:
        """Nobody is forked any more; it ends."""
        self._control.close()
        self._process.wait(PATIENCE)

    def status(self, pid: int) -> int:
        """How a process ended that has, once: until somebody asks, nobody else has its pid."""
        return self.ask({"reap": pid})


def start(
    module: str,
    words: Sequence[str] = (),
    *,
    imports: Sequence[str],
    environment: Mapping[str, str],
    folder: str | None = None,
    merged: bool = False,
) -> Forked | subprocess.Popen[bytes]:
    """What `python -m module words` is, in this environment and folder, with pipes for standard input and output.

    The first of its kind are really started so, in each environment.

    Args:
        module: What it runs.
        words: Its arguments.
        imports: What is worth to be imported before the fork.
        environment: All of its environment.
        folder: Where it runs; here if None.
        merged: Standard error is a part of the output.
    """
    place = folder or os.getcwd()  # noqa: PTH109  (a text is compared)
    late = {name: value for name, value in environment.items() if name.startswith(_LATE)}
    key = (*imports, place, frozenset(environment.items() - late.items()))
    if key in _nurseries or (_asked[key] >= ANEW and len(_nurseries) < MOST):
        kin = _nurseries.setdefault(key, [])
        kin.append(Nursery(imports, environment, place) if len(kin) < IN_TURN else kin.pop(0))
        return Forked(kin[-1], [module, *words], late, merged=merged)
    _asked[key] += 1
    return subprocess.Popen(
        [sys.executable, "-m", module, *words],
        cwd=place,
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merged else None,
        bufsize=0,
    )


def _serve(control: socket.socket) -> list[str]:
    """Fork until nobody asks any more; the words that a child is to run, or none."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 3)
        if not message:
            return []
        order = json.loads(message)
        if "reap" in order:
            answer = os.waitstatus_to_exitcode(os.waitpid(order["reap"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                control.close()
                _begin(descriptors, order["late"])
                return list(order["words"])
            for descriptor in descriptors:
                os.close(descriptor)
        try:
            control.send(json.dumps(answer).encode())
        except OSError:  # Whoever asked has not waited so long; nobody would ever end it.
            if "reap" not in order:
                os.kill(answer, signal.SIGKILL)
            return []


def _begin(descriptors: Sequence[int], late: Mapping[str, str]) -> None:
    """What a child has of its own from the first."""
    for standard, descriptor in enumerate(descriptors):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    for name in [name for name in os.environ if name.startswith(_LATE)]:
        del os.environ[name]
    os.environ.update(late)


def _main() -> None:
    number, *imports = sys.argv[1:]
    sys.path[0] = os.getcwd()  # noqa: PTH109  (as with -m)
    for module in imports:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # so that no collection of a child copies the pages
    words = []
    with contextlib.suppress(KeyboardInterrupt):  # of everybody who belongs to the terminal
        words = _serve(socket.socket(fileno=int(number)))
    if words:
        sys.argv = words
        if not hasattr(sys.modules.get(words[0]), "__path__"):
            sys.modules.pop(words[0], None)  # It is run, and was only imported; a package stays.
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
