# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""`kvdirect top` before a real router: one plain frame, the live view in a terminal, and answers that do harm."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from typing import Self

import pytest
from played_backend import DEADLINE, Backend, Reply, wait_until
from raw_http import PlayedInstance
from router_process import Proxy, command, run_cli

MIB = 1 << 20
# Clears the screen, sets the window's title, turns text around, and is markup of the library that draws.
HOSTILE = "\x1b[2J\x1b]0;owned\x07\u202e[red]evil[/red]"
SHOWN = "?[2J?]0;owned??[red]evil[/red]"
METRICS = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0"} 3.0
vllm:num_requests_running{engine="1"} 4.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.75
vllm:kvdirect_num_failed_transfers_total{reason="REASON"} 2.0
vllm:kvdirect_num_granted_leases_total{engine="0"} 5.0
vllm:kvdirect_num_ended_leases_total{reason="completed"} 3.0
vllm:kvdirect_num_ended_leases_total{reason="expired"} 1.0
"""


def engine(metrics: bytes, *more: bytes) -> PlayedInstance:
    """One that is healthy and says this of itself."""
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n"
    healthy = head + b"content-length: 2\r\n\r\n{}"
    return PlayedInstance(lambda path: [head + b"\r\n" + metrics, *more] if path == "/metrics" else [healthy])


def once(*words: str) -> str:
    done = run_cli("top", "--once", "--interval", "0.1", *words)
    assert not done.stderr
    assert done.returncode == 0
    return done.stdout


def rows(frame: str) -> dict[str, list[str]]:
    """The cells of each row by the first two."""
    lines = [re.split(r"  +", line.strip()) for line in frame.splitlines()]
    return {" ".join(line[:2]): line[2:] for line in lines if len(line) > 2}


def test_one_plain_frame() -> None:
    with (
        engine(METRICS.replace("REASON", "lease_spent").encode()) as prefill,
        Backend("decode") as decode,
        Proxy([prefill.url], [decode.url]) as proxy,
    ):
        decode.reply = Reply(raw=b"")  # of an engine that is no vLLM
        for _ in range(3):
            proxy.complete()
        proxy.wait_idle()
        frame = once("--router", proxy.url)
    assert "\x1b" not in frame
    assert [line for line in frame.splitlines() if line != line.rstrip()] == []
    assert re.match(rf"kvdirect top  {proxy.url}  ok  rates and quantiles of the last [\d.]+ s\nrequests 0/s", frame)
    found = rows(frame)
    assert found[f"prefill {prefill.url}"][0] == "up"
    assert found[f"prefill {prefill.url}"][-3:] == ["7", "0", "50 %"]
    assert found[f"decode {decode.url}"][4] == "3"
    assert found[f"{prefill.url} 1"] == ["5", "0", "3", "0"], "leases: one of five is held"
    assert found[f"{prefill.url} pull or ticket refused"] == ["lease_spent", "2", "0"]
    assert found["router prompt"][1:] == ["3", "0"]


def test_what_they_say_controls_no_terminal() -> None:
    metrics = METRICS.replace("REASON", HOSTILE).encode()
    with engine(metrics) as decode, Proxy([decode.url], [decode.url]) as proxy:
        frame = once("--router", proxy.url)
        assert SHOWN in frame
        assert frame.replace("\n", "").isprintable()
        with Terminal("--router", proxy.url) as terminal:
            terminal.wait(lambda: SHOWN in terminal.said)
            assert "\x1b[2J\x1b]0;" not in terminal.said
            assert "\u202e" not in terminal.said


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        ([b'vllm:kvdirect_x{a="b" 1\n'], "not Prometheus's text"),
        ([b"vllm:kvdirect_x one\n"], "not Prometheus's text"),
        ([b"vllm:kvdirect_x" + b"x" * 5000], "lines beyond"),
        ([b"vllm:kvdirect_x 1\n" * 20_001], "more than 20000"),
        ([b"x" * MIB] * 12, "larger than 8 MiB"),
    ],
    ids=["label", "value", "line", "lines", "bytes"],
)
def test_an_engine_that_answers_anything_is_named(metrics: list[bytes], told: str) -> None:
    with engine(*metrics) as decode, Proxy([decode.url], [decode.url]) as proxy:
        assert told in rows(once("--router", proxy.url))[f"decode {decode.url}"][-1]


def test_a_router_that_answers_anything_is_named() -> None:
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"
    for answer in (b"{", b"[" * 100_000, b'{"status":1}', b'{"status":"ok","in_flight":-1,"instances":[]}', b""):
        with PlayedInstance(lambda _, answer=answer: [head + answer]) as router:
            done = run_cli("top", "--once", "--interval", "0.1", "--router", router.url)
            assert done.returncode == 1
            assert f"the router at {router.url}: /status: " in done.stdout
            assert "Traceback" not in done.stderr


def test_one_that_does_not_answer_costs_no_more_than_the_timeout() -> None:
    with Backend("decode") as decode, Proxy([decode.url], [decode.url]) as proxy:
        os.kill(proxy.process.pid, signal.SIGSTOP)
        try:
            done = run_cli(
                *("top", "--once", "--interval", "0.1", "--timeout", "0.5"),
                *("--router", proxy.url, "--engine", decode.url),
            )
        finally:
            os.kill(proxy.process.pid, signal.SIGCONT)
    assert done.returncode == 1
    assert f"the router at {proxy.url}: no answer within 0.5 s" in done.stdout
    assert decode.url in done.stdout, "the others are shown"


class Terminal:
    """The live view in a terminal of its own."""

    def __init__(self, *words: str) -> None:
        line, environment = command("top", "--interval", "0.2", *words)
        self._end, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        self._settings = termios.tcgetattr(inside)
        self._inside = inside
        self.process = subprocess.Popen(
            line,
            env={**environment, "TERM": "xterm-256color"},
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
        )
        self.said = ""

    def wait(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 4 * DEADLINE
        while not condition():
            assert time.monotonic() < end, self.said[-3000:]
            self._read(0.1)

    def _read(self, seconds: float) -> bool:
        if not select.select([self._end], [], [], seconds)[0]:
            return False
        self.said += os.read(self._end, 65536).decode("utf-8", "replace")
        return True

    def stop(self, number: int) -> int:
        self.process.send_signal(number)
        self.wait(lambda: self.process.poll() is not None)
        while self._read(0.1):
            pass
        assert termios.tcgetattr(self._inside) == self._settings
        return self.process.wait(DEADLINE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(DEADLINE)
        os.close(self._end)
        os.close(self._inside)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_live_view_follows_what_happens_and_ends_cleanly(number: int) -> None:
    with Backend("prefill") as prefill, Backend("decode") as decode, Proxy([prefill.url], [decode.url]) as proxy:
        prefill.reply = Reply(params={"ticket": 1})
        with Terminal("--router", proxy.url) as terminal:
            terminal.wait(lambda: prefill.url in terminal.said and decode.url in terminal.said)
            for _ in range(20):
                proxy.complete()
            terminal.wait(lambda: bool(re.search(r"prefilled apart 100 %", terminal.said)))
            terminal.wait(lambda: bool(re.search(r"first byte p50 [\d.]+ m?s", terminal.said)))
            decode.stop()
            terminal.wait(lambda: "unavailable" in terminal.said and "down" in terminal.said)
            decode.start()
            wait_until(lambda: proxy.state()["status"] == "ok", "decode to be back")
            proxy.process.terminate()
            terminal.wait(lambda: "the router at" in terminal.said and "no answer" in terminal.said)
            assert terminal.process.poll() is None, "it goes on"
            assert terminal.stop(number) == 0
            assert "Traceback" not in terminal.said
            begun, ended = terminal.said.rfind("\x1b[?1049h"), terminal.said.rfind("\x1b[?1049l")
            assert 0 <= begun < ended, "the screen is as it was"


def test_what_cannot_be_shown_is_refused() -> None:
    for words, status, told in (
        (("--router", "ftp://x"), 2, "router URL 'ftp://x'"),
        (("--router", "http://127.0.0.1:9", "--engine", "x"), 2, "engine URL 'x'"),
        (("--router", "http://127.0.0.1:9", "--interval", "0"), 2, "--interval is 0.0"),
        (("--router", "http://127.0.0.1:9"), 1, "no terminal; print one frame with --once"),
    ):
        done = run_cli("top", *words)
        assert done.returncode == status
        assert told in done.stderr
        assert done.stderr.count("\n") == 1
