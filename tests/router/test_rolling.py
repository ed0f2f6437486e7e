# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Every instance is replaced under load, and no client notices."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import pytest
from played_backend import wait_until
from played_engine import right_text
from router_process import START_DEADLINE, Proxy

TOKEN = "0123456789abcdef-the-token"  # noqa: S105 (of these tests)
PATIENCE = 60.0  # seconds; a request that takes longer hangs
CLIENTS = 8


class EngineProcess:
    """One `played_engine.py`, started and ready."""

    def __init__(self, name: str, role: str) -> None:
        self.name = name
        self.role = role
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("played_engine.py")), name], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()  # ends with the process, if it cannot start
        assert self.url, f"{name} did not start"

    def end(self, number: signal.Signals) -> int:
        os.kill(self._process.pid, number)
        return self._process.wait(START_DEADLINE)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(START_DEADLINE)
        assert self._process.stdout is not None
        self._process.stdout.close()


class Load:
    """Clients that ask without a pause; `wrong` has everything that no client should see."""

    def __init__(self, url: str, *, streams: bool) -> None:
        self.wrong: list[str] = []
        self.served: Counter[str] = Counter()
        self._url = f"{url}/v1/completions"
        self._streams = streams
        self._stop = threading.Event()
        self._numbers = itertools.count()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(PATIENCE + 10)
        assert not self._thread.is_alive()

    @property
    def answered(self) -> int:
        return self.served.total()

    def wait_more(self, count: int) -> None:
        """Wait for that many further right answers."""
        goal = self.answered + count
        wait_until(lambda: self.answered >= goal or bool(self.wrong), "more answers", PATIENCE)
        assert not self.wrong, self.wrong[:5]

    async def _run(self) -> None:
        async with httpx.AsyncClient(timeout=PATIENCE, trust_env=False) as client:
            await asyncio.gather(*(self._keep_asking(client) for _ in range(CLIENTS)))

    async def _keep_asking(self, client: httpx.AsyncClient) -> None:
        while not self._stop.is_set():
            number = next(self._numbers)
            body = {"prompt": f"prompt {number}", "stream": self._streams and number % 2 == 0}
            try:
                answer = await client.post(self._url, json=body)
                text, name = self._read(answer)
            except (httpx.HTTPError, ValueError, LookupError) as exc:
                self.wrong.append(f"{number}: {type(exc).__name__} {exc}")
                continue
            if answer.status_code != 200 or text != right_text(body["prompt"]):
                self.wrong.append(f"{number}: {answer.status_code} {answer.text[:200]}")
            else:
                self.served[name] += 1

    def _read(self, answer: httpx.Response) -> tuple[str, str]:
        """The text of an answer, and who decoded it."""
        if not answer.headers["content-type"].startswith("text/event-stream"):
            body = answer.json()
            return body["choices"][0]["text"], body["served_by"]
        *events, done = answer.text.strip().split("\n\n")
        parsed: list[dict[str, Any]] = [json.loads(event.removeprefix("data: ")) for event in events]
        whole = "".join(event["choices"][0]["text"] for event in parsed)
        return (whole if done == "data: [DONE]" else f"cut off: {whole}"), parsed[0]["served_by"]


class Fleet:
    """Two prefill and two decode processes behind a router, which is told of them one by one."""

    def __init__(self, token_file: Path) -> None:
        self.proxy = Proxy([], [], "--admin-token-file", str(token_file), "--health-interval", "0.5")
        self._started: list[EngineProcess] = []
        try:
            self.engines = [self.start(f"{role}-{n}", role) for n in range(2) for role in ("prefill", "decode")]
        except BaseException:
            self.close()
            raise

    def start(self, name: str, role: str) -> EngineProcess:
        engine = EngineProcess(name, role)
        self._started.append(engine)
        joined = self.call("POST", json={"url": engine.url, "role": role})
        assert joined["instances"][0]["state"] == "up", joined
        return engine

    def call(self, method: str, path: str = "", **what: Any) -> dict[str, Any]:  # noqa: ANN401 (httpx's)
        headers = {"authorization": f"Bearer {TOKEN}"}
        answer = self.proxy.client.request(method, f"/admin/instances{path}", headers=headers, timeout=PATIENCE, **what)
        assert answer.is_success, answer.text
        body = answer.json()
        assert isinstance(body, dict)
        return body

    def known(self) -> list[str]:
        return [item["url"] for item in self.call("GET")["instances"]]

    def counters(self, family: str) -> dict[str, int]:
        """Counters of a family that are not 0."""
        return {name: number for name, number in self.proxy.state()["counters"][family].items() if number}

    def close(self) -> None:
        for engine in self._started:
            engine.close()
        self.proxy.__exit__(None, None, None)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    fleet = Fleet(token)
    yield fleet
    fleet.close()


def test_a_rolling_restart_with_drains_needs_not_one_retry(fleet: Fleet) -> None:
    """Streams included: whatever has begun is finished before its instance stops."""
    with Load(fleet.proxy.url, streams=True) as load:
        load.wait_more(40)
        for old in fleet.engines:
            fleet.start(f"new-{old.name}", old.role)
            fleet.call("POST", "/drain", json={"url": old.url, "role": old.role})
            wait_until(lambda: old.url not in fleet.known(), f"{old.name} to drain", PATIENCE)  # noqa: B023
            assert old.end(signal.SIGTERM) == 0
            load.wait_more(20)
    assert load.wrong == []
    assert {"decode-0", "decode-1", "new-decode-0", "new-decode-1"} == set(load.served)
    fleet.proxy.wait_idle()
    assert fleet.counters("requests") == {"ok": load.answered}
    assert fleet.counters("prefills") == {"disaggregated": load.answered}
    assert fleet.counters("retries") == {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_instances_that_stop_without_a_word_lose_no_request(fleet: Fleet, number: signal.Signals) -> None:
    """Nobody drains them, so requests are on them when they end, and tickets of theirs are on their way."""
    with Load(fleet.proxy.url, streams=False) as load:
        load.wait_more(40)
        for old in fleet.engines:
            fleet.start(f"new-{old.name}", old.role)
            load.wait_more(20)
            old.end(number)
            load.wait_more(40)
            fleet.call("DELETE", params={"url": old.url})
    assert load.wrong == []
    assert {"new-decode-0", "new-decode-1"} <= set(load.served)
    fleet.proxy.wait_idle()
    assert fleet.counters("requests") == {"ok": load.answered}
    retries = fleet.counters("retries")
    assert retries, "no request was on an instance when it ended: this test has shown nothing"
