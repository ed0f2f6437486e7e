# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A real `kvdirect proxy` process on a free port."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import nursery
from played_backend import DEADLINE, Backend, wait_until

ROOT = Path(__file__).resolve().parents[2]
_READY = re.compile(r"^kvdirect proxy listening on (http://127\.0\.0\.1:\d+)$", re.MULTILINE)
# What the router takes longest to import.
IMPORTED = ("kvdirect.cli.main", "kvdirect.cli.proxy", "kvdirect.router.serving", "uvicorn.lifespan.off")
START_DEADLINE = 40.0  # seconds; a loaded machine imports slowly


def command(*words: str) -> tuple[list[str], dict[str, str]]:
    """The command line and environment of `kvdirect WORDS`, also from a tree that is not installed."""
    paths = [str(ROOT), str(ROOT / "vllm_plugin"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    # A proxy setting of the environment must not send loopback traffic elsewhere.
    environment |= {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    return [sys.executable, "-m", "kvdirect", *words], environment


def run_cli(*words: str) -> subprocess.CompletedProcess[str]:
    """Run `kvdirect WORDS` to its end."""
    line, environment = command(*words)
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=START_DEADLINE, check=False)


class Proxy:
    """The process, and a client for it."""

    def __init__(self, prefill: Sequence[str], decode: Sequence[str], *options: str) -> None:
        words = ["proxy", "--port", "0", "--health-interval", "0.1", "--health-timeout", "5", *options]
        for url in prefill:
            words += ["--prefill", url]
        for url in decode:
            words += ["--decode", url]
        line, environment = command(*words)
        self.process = nursery.start("kvdirect", line[3:], imports=IMPORTED, environment=environment, merged=True)
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            wait_until(self._ready_or_dead, "the ready line", START_DEADLINE)
            found = _READY.search(self.log)
            assert found, f"the router did not start:\n{self.log}"
        except BaseException:
            self.process.kill()
            self.process.wait(DEADLINE)
            raise
        self.url = found[1]
        # Above the backends' own deadlines, so that a hang shows in the test that waits.
        self.client = httpx.Client(base_url=self.url, timeout=DEADLINE, trust_env=False)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with open(self.process.stdout.fileno(), closefd=False) as lines:
            for line in lines:
                self._lines.append(line)

    def _ready_or_dead(self) -> bool:
        return bool(_READY.search(self.log)) or self.process.poll() is not None

    @property
    def log(self) -> str:
        return "".join(self._lines)

    def state(self) -> dict[str, Any]:
        state = self.client.get("/status").json()
        assert isinstance(state, dict)
        return state

    def instances(self, role: str) -> list[dict[str, Any]]:
        """What `/status` shows of the instances of a role."""
        return [item for item in self.state()["instances"] if item["role"] == role]

    def outcomes(self) -> dict[str, int]:
        """How many requests ended in which way; one is counted just after its client has the answer."""
        self.wait_idle()
        return {outcome: number for outcome, number in self.state()["counters"]["requests"].items() if number}

    def counter(self, family: str, label: str) -> int:
        value = self.state()["counters"][family][label]
        assert isinstance(value, int)
        return value

    def wait_health(self, role: str, *expected: bool) -> None:
        """Wait until the instances of a role are in (True) or out (False)."""
        wait_until(lambda: [item["healthy"] for item in self.instances(role)] == list(expected), f"{role} {expected}")

    def wait_idle(self) -> None:
        """Wait until nothing is counted as in flight or kept, anywhere."""
        wait_until(lambda: not self.busy(), "the in-flight counts to reach 0")

    def busy(self) -> dict[str, int]:
        """Every in-flight count that is not 0."""
        state = self.state()
        counts = {f"{item['role']} {item['url']}": item["in_flight"] + item["caches"] for item in state["instances"]}
        return {name: count for name, count in {"router": state["in_flight"], **counts}.items() if count}

    def complete(self, **body: object) -> httpx.Response:
        return self.client.post("/v1/completions", json={"model": "m", "prompt": "hi", **body})

    def finish(self) -> int:
        """Wait for the process to end by itself; returns its exit status."""
        status = self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        assert "Traceback" not in self.log, self.log


class Stack:
    """A proxy with one prefill and one decode backend."""

    def __init__(self, proxy: Proxy, prefill: Backend, decode: Backend) -> None:
        self.proxy = proxy
        self.prefill = prefill
        self.decode = decode

    def stream(self, **body: object) -> Any:  # noqa: ANN401 (httpx's context manager has no public type)
        return self.proxy.client.stream(
            "POST", "/v1/completions", json={"model": "m", "prompt": "hi", "stream": True, **body}
        )
