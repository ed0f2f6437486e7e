# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The command line, starting and stopping."""

import os
import signal
import socket
import subprocess
import sys
import threading

import httpx
import pytest
from played_backend import DEADLINE, Reply, wait_until
from router_process import Proxy, Stack, command, run_cli

GOOD = "http://127.0.0.1:8100"


@pytest.mark.parametrize("role", ["prefill", "decode"])
@pytest.mark.parametrize(
    "bad",
    ["127.0.0.1:8100", "ftp://h:1", "http://", "http://h:99999", "http://h:1/v1", "http://h:1?x=1", "http://[::1"],
)
def test_a_bad_url_is_named(role: str, bad: str) -> None:
    urls = {"prefill": GOOD, "decode": GOOD, role: bad}
    done = run_cli("proxy", "--prefill", urls["prefill"], "--decode", urls["decode"])
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"{role} URL {bad!r}" in done.stderr


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    done = run_cli("proxy", "--prefill", "http://user:hunter2@h:1", "--decode", GOOD)
    assert done.returncode == 2
    assert "hunter2" not in done.stderr
    assert "Authorization" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["proxy", "--decode", GOOD], "--prefill"),
        (["proxy", "--prefill", GOOD, "--decode", GOOD, "--decode", GOOD + "/"], "given twice"),
        (["proxy", "--prefill", GOOD, "--decode", GOOD, "--port", "70000"], "port is 70000"),
        (["proxy", "--prefill", GOOD, "--decode", GOOD, "--connect-timeout", "nan"], "connect_timeout is nan"),
        (["proxy", "--prefill", GOOD, "--decode", GOOD, "--max-body-bytes", "0"], "max_body_bytes is 0"),
        (["proxy", "--prefill", GOOD, "--decode", GOOD, "--health-interval", "soon"], "soon"),
        (["proxy", "--prefill", GOOD, "--decode", GOOD, "--retries", "-1"], "retries is -1; expected 0 or more"),
        (["proxy", "--prefill", GOOD, "--decode", GOOD, "--max-in-flight", "0"], "max_in_flight is 0"),
        (["proxy", "--prefill", GOOD, "--decode", GOOD, "--max-instances", "1"], "2 instances given"),
        (["proxy", "--prefill", GOOD, "--decode", GOOD, "--idle-timeout", "inf"], "idle_timeout is inf"),
        (["proxy", "--prefill", GOOD, "--decode", GOOD, "--admin-token-file", "/nowhere"], "No such file"),
        (["proxy", "--admin-token-file", "/dev/null"], "no usable token"),
        (["proxy"], "--admin-token-file so that instances can join"),
        (["proxi"], "invalid choice: 'proxi'"),
        ([], "COMMAND"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(words: list[str], told: str) -> None:
    done = run_cli(*words)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert told in done.stderr


def test_version_needs_nothing_installed() -> None:
    """In a Python that sees only the standard library and this source tree."""
    _, environment = command()
    for words in (["version"], ["--version"]):
        done = subprocess.run(
            [sys.executable, "-S", "-m", "kvdirect", *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=True,
        )
        assert done.stdout.startswith("kvdirect ")


def test_missing_web_packages_are_one_line() -> None:
    line, environment = command("proxy", "--prefill", GOOD, "--decode", GOOD)
    done = subprocess.run(
        [line[0], "-S", *line[1:]], env=environment, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert 'pip install "kvdirect[proxy]"' in done.stderr


def test_a_taken_port_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_cli("proxy", "--prefill", GOOD, "--decode", GOOD, "--port", str(port))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_requests_finish_and_takes_no_new_ones(stack: Stack, number: signal.Signals) -> None:
    stack.decode.reply = Reply(hold=True)
    with Proxy([stack.prefill.url], [stack.decode.url]) as proxy:
        url = f"{proxy.url}/v1/completions"
        with proxy.client.stream("POST", url, json={"prompt": "p", "stream": True}) as answer:
            chunks = answer.iter_raw()
            assert b"first" in next(chunks)
            os.kill(proxy.process.pid, number)
            wait_until(lambda: httpx.get(f"{proxy.url}/health", trust_env=False).status_code == 503, "it to drain")
            assert proxy.state()["status"] == "draining"
            refused = httpx.post(url, json={"prompt": "p" * 1_000_000}, trust_env=False)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert refused.headers["connection"] == "close"
            assert "is stopping" in refused.json()["error"]["message"]
            assert proxy.process.poll() is None
            stack.decode.gate.set()
            assert b"[DONE]" in b"".join(chunks)
        assert proxy.finish() == 0, proxy.log
    assert len(stack.decode.seen) == 1


def test_a_second_signal_ends_the_waiting(stack: Stack) -> None:
    stack.decode.reply = Reply(hold=True)
    with Proxy([stack.prefill.url], [stack.decode.url], "--drain-timeout", "3600") as proxy:
        url = f"{proxy.url}/v1/completions"
        with proxy.client.stream("POST", url, json={"prompt": "p", "stream": True}) as answer:
            chunks = answer.iter_raw()
            assert b"first" in next(chunks)
            proxy.process.terminate()
            wait_until(lambda: proxy.state()["status"] == "draining", "it to drain")
            proxy.process.terminate()
            assert b"the router is stopping" in b"".join(chunks)
        assert proxy.finish() == 0, proxy.log


def test_draining_is_bounded_and_says_so(stack: Stack) -> None:
    """A request that is read, one that waits for its answer and one that streams: none outlives the bound."""
    stack.decode.reply = Reply(hold=True)
    with Proxy([stack.prefill.url], [stack.decode.url], "--drain-timeout", "0.5") as proxy:
        url = f"{proxy.url}/v1/completions"
        host, port = proxy.url.removeprefix("http://").split(":")
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(proxy.complete()))
        asking.start()
        wait_until(lambda: len(stack.decode.seen) == 1, "the request to arrive")
        with (
            socket.create_connection((host, int(port)), timeout=DEADLINE) as half_sent,
            httpx.stream(
                "POST", url, json={"prompt": "p", "stream": True}, timeout=DEADLINE, trust_env=False
            ) as stream,
        ):
            half_sent.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
            wait_until(lambda: proxy.state()["in_flight"] == 3, "all three requests to be taken")
            proxy.process.terminate()
            assert half_sent.recv(65536).startswith(b"HTTP/1.1 503 ")
            events = b"".join(stream.iter_raw())
        assert b"[DONE]" not in events
        assert b'data: {"error":{"message":"the router is stopping' in events
        asking.join(DEADLINE)
        assert answers[0].status_code == 503
        assert "the router is stopping" in answers[0].json()["error"]["message"]
        assert proxy.finish() == 0, proxy.log
        assert stack.decode.cancelled.wait(DEADLINE)
