# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Engines without models in processes of their own, to be killed: one process imports vLLM and forks each of them.

The program reads a line of JSON for each engine: its role, model and settings. What is forked has the pipes from then
on, and answers each line with one; when it has ended, the program waits for the next.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelless_engine import Engine

if TYPE_CHECKING:
    from collections.abc import Iterator

_HERE = Path(__file__).resolve().parent


class Node:
    """The program, as a test sees it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def ask(self, **words: Any) -> Any:  # noqa: ANN401
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        return json.loads(self._process.stdout.readline())

    @contextmanager
    def engine(self, model: Path, role: str, **extra: Any) -> Iterator[Remote]:  # noqa: ANN401
        """One engine, which is killed in the end if it was not before."""
        remote = Remote(self, **self.ask(model=str(model), role=role, extra=extra))
        try:
            yield remote
        finally:
            remote.kill()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Remote:
    """An engine in a process of its own."""

    def __init__(self, node: Node, pid: int, port: int) -> None:
        self._node = node
        self._pid = pid
        self.port = port

    def add(self, name: str, prompt: int, tokens: int, params: dict[str, Any], max_tokens: int = 1) -> None:
        self._node.ask(add=[name, prompt, tokens, params, max_tokens])

    def step(self) -> dict[str, Any]:
        """One step; `streams` and `pulled` say how far a reader is."""
        answer: dict[str, Any] = self._node.ask(step=1)
        return answer

    def kill(self) -> None:
        """As SIGKILL does it. May be called again."""
        if not self._pid:
            return
        end = os.pidfd_open(self._pid)
        try:
            signal.pidfd_send_signal(end, signal.SIGKILL)
            assert select.select([end], [], [], 20.0)[0]  # before that it may read what is for the program
        finally:
            os.close(end)
        assert self._node.ask() == -signal.SIGKILL  # the program tells how it ended
        self._pid = 0


def _words() -> Any:  # noqa: ANN401
    """The next line, and nothing of what follows, which may be another process's."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            sys.exit()
        line += byte
    return json.loads(line)


def _say(out: int, words: object) -> None:
    os.write(out, json.dumps(words).encode() + b"\n")


def _serve(out: int, model: str, role: str, extra: dict[str, Any]) -> None:
    engine = Engine(Path(model), role, **extra)
    _say(out, {"pid": os.getpid(), "port": engine.port if role == "kv_producer" else 0})
    pulled = 0
    while True:
        words = _words()
        if "add" in words:
            name, prompt, tokens, params, max_tokens = words["add"]
            engine.add(name, prompt, tokens, params, max_tokens=max_tokens)
            _say(out, {})
            continue
        engine.step()
        stats = engine.worker.take_stats()
        pulled += 0 if stats is None else len(stats.data["pulls"])
        reading = engine.half._reader
        streams = 0 if reading is None else len(reading._streams)
        _say(out, {"done": sorted(engine.done), "streams": streams, "pulled": pulled})


def main() -> None:
    out = os.dup(1)
    os.dup2(2, 1)  # what vLLM writes is no answer
    while True:
        order = _words()
        child = os.fork()
        if child == 0:
            _serve(out, **order)
            return
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert _words() == {}
        _say(out, ended)


if __name__ == "__main__":
    main()
