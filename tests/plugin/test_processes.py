# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The processes of demo and benchmark: never forgotten, missed when they end too early, gone when stop() returns."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from kvdirect.harness import processes
from kvdirect.harness.processes import ManagedProcess, ProcessSet, StartError, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


def interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def sigterm_interrupts() -> Iterator[None]:
    """As in the demo."""
    previous = signal.signal(signal.SIGTERM, interrupt)
    yield
    signal.signal(signal.SIGTERM, previous)


@pytest.mark.usefixtures("sigterm_interrupts")
def test_a_signal_while_a_process_starts_does_not_lose_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], **options: Any) -> None:  # noqa: ANN401
            super().__init__(command, **options)
            started.append(self.pid)
            signal.raise_signal(signal.SIGTERM)  # before the caller has the object

    monkeypatch.setattr(processes.subprocess, "Popen", Interrupted)
    process = ManagedProcess("sleeper", ["sleep", "60"], "", tmp_path / "log")
    with pytest.raises(KeyboardInterrupt):
        process.start()
    process.ask_to_stop()
    process.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


def test_nothing_of_the_group_lives_when_stop_returns(tmp_path: Path) -> None:
    """As vLLM's helpers do, the child ignores SIGTERM; it holds memory that takes the kernel a while to give back."""
    child = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); x = bytearray(400 << 20); print('ready', flush=True)"
    )
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child + '; time.sleep(60)'!r}]).wait()"
    log = tmp_path / "log"
    process = ManagedProcess("parent", [sys.executable, "-c", parent], "", log)
    process.start()
    while "ready" not in log.read_text():
        time.sleep(0.05)
    process.ask_to_stop()
    process.stop(0.5)
    group = process.group
    assert group > 0
    assert not processes.alive_in_group(group)


# Healthy, and with no answer to anything else. Asked by GET /end, it ends as an engine without memory would.
PLAYED = """
import http.server, os, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/end":
            print("the engine has no memory left", flush=True)
            os._exit(3)
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        print("asked", flush=True)
        time.sleep(600)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def two(tmp_path: Path) -> list[ManagedProcess]:
    """Not started."""
    made = []
    for name in ("decode", "prefill"):
        port = free_port()
        command = [sys.executable, "-c", PLAYED, str(port)]
        made.append(ManagedProcess(name, command, f"http://127.0.0.1:{port}", tmp_path / f"{name}.log"))
    return made


def end(process: ManagedProcess) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{process.url}/end", timeout=10.0)


def test_a_process_that_ends_is_missed_while_another_one_is_waited_for(two: list[ManagedProcess]) -> None:
    """The router, say, waits for a decode engine, which waits for a prefill engine that is no more."""
    decode, prefill = two

    def ends_when_the_other_was_asked() -> None:
        while "asked" not in decode.log.read_text():
            time.sleep(0.02)
        end(prefill)

    calls = [partial(httpx.post, decode.url, timeout=300.0), ends_when_the_other_was_asked]
    asked = time.monotonic()
    with pytest.raises(StartError, match="no memory left") as found, ProcessSet(two, deadline=60) as running:
        running.run(calls, at_once=2)
    assert str(found.value).startswith("prefill ended with status 3; the end of ")
    assert time.monotonic() - asked < 150  # and not the 300 that the answer may take


def test_the_end_of_a_process_is_the_error_and_not_the_request_that_it_broke(two: list[ManagedProcess]) -> None:
    decode, _ = two
    with pytest.raises(StartError, match="no memory left") as found, ProcessSet(two, deadline=60):
        httpx.get(f"{decode.url}/end", timeout=10.0)
    assert isinstance(found.value.__cause__, httpx.RemoteProtocolError)


def test_what_calls_come_to_is_in_order(two: list[ManagedProcess]) -> None:
    with ProcessSet(two, deadline=60) as running:
        assert running.run([partial(int, str(number)) for number in range(20)], at_once=3) == list(range(20))
        with pytest.raises(ValueError, match="six"):
            running.run([partial(int, "5"), partial(int, "six")], at_once=1)


def test_ports_are_none_that_connections_take() -> None:
    """Those of the kernel's own choice are often lost again before an engine listens."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(1024 < free_port(2) < max(first, 12000) for _ in range(50))


def test_a_port_is_kept_for_the_server_that_it_was_picked_for() -> None:
    """Minutes go by until an engine listens, and on a busy machine somebody else had it by then."""
    port = free_port(2)
    for number in (port, port + 1):
        with socket.socket() as somebody, pytest.raises(OSError, match="in use"):
            somebody.bind(("127.0.0.1", number))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", number))
        for _ in range(2):  # also when it starts again
            listen = f"import socket; print(socket.create_server(('127.0.0.1', {number})).getsockname()[1])"
            assert int(subprocess.check_output([sys.executable, "-c", listen])) == number
