# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A router of several processes: what they share, and what becomes of it when one of them dies."""

import contextlib
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from played_backend import DEADLINE, Backend, Reply, wait_until
from raw_http import connect
from router_process import START_DEADLINE, Proxy, Stack

WORKERS = 3
TLS = ssl.create_default_context()  # once: each takes as long as many requests
TOKEN = "a-token-of-the-tests-own"  # noqa: S105 (none)


def workers_of(proxy: Proxy) -> list[int]:
    """Process ids of a router's workers."""
    listed = Path(f"/proc/{proxy.process.pid}/task/{proxy.process.pid}/children").read_text().split()
    return [int(pid) for pid in listed]


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 (of another process, and only their number)


def running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def everywhere(proxy: Proxy, path: str, *, connections: int = 24) -> list[httpx.Response]:
    """The same question over so many connections, which the workers share evenly."""
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(httpx.Client(base_url=proxy.url, timeout=START_DEADLINE, trust_env=False, verify=TLS))
            for _ in range(connections)
        ]
        return [client.get(path, headers={"authorization": f"Bearer {TOKEN}"}) for client in clients]


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(TOKEN)
    options = ["--workers", str(WORKERS), "--admin-token-file", str(token), "--max-in-flight", "12"]
    options += ["--max-bodies-bytes", "400000", "--body-timeout", "20", "--max-connections", "60"]
    with (
        Backend("prefill") as prefill,
        Backend("decode") as decode,
        Proxy([prefill.url], [decode.url], *options) as proxy,
    ):
        yield Stack(proxy, prefill, decode)


@pytest.fixture
def stack(several: Stack) -> Iterator[Stack]:
    several.prefill.reset()
    several.decode.reset()
    several.prefill.reply = Reply(params={"ticket": 1})
    wait_until(lambda: len(workers_of(several.proxy)) == WORKERS, "all workers")
    several.proxy.wait_health("prefill", True)
    several.proxy.wait_health("decode", True)
    several.proxy.wait_idle()
    yield several
    several.prefill.gate.set()
    several.decode.gate.set()


def ask(proxy: Proxy, **headers: str) -> httpx.Response:
    """A request over a connection of its own, with all the patience that a busy machine needs."""
    url = f"{proxy.url}/v1/completions"
    return httpx.post(url, json={"prompt": "hi"}, headers=headers, timeout=START_DEADLINE, trust_env=False, verify=TLS)


def change(proxy: Proxy, method: str, path: str = "", **what: object) -> httpx.Response:
    return proxy.client.request(
        method,
        f"/admin/instances{path}",
        headers={"authorization": f"Bearer {TOKEN}"},
        **what,  # type: ignore[arg-type]
    )


def test_every_worker_serves_and_any_of_them_tells_the_sums(stack: Stack) -> None:
    before = stack.proxy.outcomes().get("ok", 0)
    with contextlib.ExitStack() as open_ones:
        clients = [
            open_ones.enter_context(
                httpx.Client(base_url=stack.proxy.url, timeout=START_DEADLINE, trust_env=False, verify=TLS)
            )
            for _ in range(12)
        ]
        for client in clients:
            assert client.post("/v1/completions", json={"prompt": "hi"}).json()["served_by"] == "decode"
        having = [pid for pid in workers_of(stack.proxy) if descriptors(pid) > 12]
        assert having == workers_of(stack.proxy)
    stack.proxy.wait_idle()
    for answer in everywhere(stack.proxy, "/status"):
        state = answer.json()
        assert state["counters"]["requests"]["ok"] == before + 12
        assert [item["requests"] for item in state["instances"]] == [state["instances"][0]["requests"]] * 2
    texts = {answer.text for answer in everywhere(stack.proxy, "/metrics")}
    lines = {line for text in texts for line in text.splitlines() if line.startswith("kvdirect_router_request_seconds")}
    assert f'kvdirect_router_request_seconds_count{{endpoint="completions"}} {before + 12}.0' in lines
    assert len({line for line in lines if "_count{" in line and '"completions"' in line}) == 1


def test_what_is_in_flight_is_limited_over_all_workers(stack: Stack) -> None:
    stack.decode.reply = Reply(hold=True)
    with ThreadPoolExecutor(30) as pool:
        asked = [pool.submit(ask, stack.proxy) for _ in range(30)]
        wait_until(lambda: sum(one.done() for one in asked) == 18, "the limit to be reached")
        assert {one.result().status_code for one in asked if one.done()} == {429}
        assert [item["in_flight"] for item in stack.proxy.instances("decode")] == [12]
        stack.decode.gate.set()
        statuses = sorted(one.result(DEADLINE).status_code for one in asked)
    assert statuses == [200] * 12 + [429] * 18


def test_an_instance_that_joins_drains_and_leaves_is_known_to_all_before_the_answer(stack: Stack) -> None:
    proxy = stack.proxy
    with Backend("second") as second:
        for _ in range(3):
            assert change(proxy, "POST", json={"url": second.url, "role": "decode"}).status_code == 201
            for answer in everywhere(proxy, "/admin/instances"):
                found = {item["url"]: item["state"] for item in answer.json()["instances"]}
                assert found[second.url] == "up"
            drained = change(proxy, "POST", "/drain", json={"url": second.url, "remove": False})
            assert drained.status_code == 202
            for answer in everywhere(proxy, "/admin/instances"):
                assert {item["url"]: item["state"] for item in answer.json()["instances"]}[second.url] == "drained"
            assert change(proxy, "DELETE", params={"url": second.url}).status_code == 200
            for answer in everywhere(proxy, "/admin/instances"):
                assert second.url not in answer.text
    assert change(proxy, "DELETE", params={"url": second.url}).status_code == 404


def test_an_instance_is_drained_when_no_worker_has_anything_there(stack: Stack) -> None:
    proxy = stack.proxy
    with Backend("second") as second, ThreadPoolExecutor(6) as pool:
        change(proxy, "POST", json={"url": second.url, "role": "decode"})
        stack.decode.reply = second.reply = Reply(hold=True)
        asked = [pool.submit(ask, proxy) for _ in range(6)]
        wait_until(lambda: len(second.seen) == 3, "half of them to be there")
        assert change(proxy, "POST", "/drain", json={"url": second.url}).json()["instances"][0]["state"] == "draining"
        assert {second.url in answer.text for answer in everywhere(proxy, "/admin/instances")} == {True}
        second.gate.set()
        wait_until(lambda: second.url not in change(proxy, "GET").text, "it to leave")
        assert {second.url in answer.text for answer in everywhere(proxy, "/admin/instances")} == {False}
        stack.decode.gate.set()
        assert {one.result(DEADLINE).status_code for one in asked} == {200}


def test_one_workers_refused_connection_takes_the_instance_out_for_all(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    options = ["--workers", "2", "--admin-token-file", str(token), "--health-interval", "600"]
    with Backend("decode") as decode, Backend("gone") as gone, Proxy([], [gone.url, decode.url], *options) as proxy:
        gone.stop()
        for _ in range(3):
            assert proxy.complete().json()["served_by"] == "decode"
        wait_until(
            lambda: all(
                [item["healthy"] for item in answer.json()["instances"]] == [False, True]
                for answer in everywhere(proxy, "/status", connections=8)
            ),
            "all to know",
        )


def test_a_worker_that_is_killed_takes_only_its_own_requests_along(stack: Stack) -> None:
    proxy = stack.proxy
    before = proxy.outcomes().get("ok", 0)
    stack.decode.reply = Reply(hold=True)
    old = workers_of(proxy)
    with ThreadPoolExecutor(9) as pool:
        asked = [pool.submit(ask, proxy) for _ in range(9)]
        wait_until(lambda: proxy.state()["in_flight"] == 9, "all to be in flight")
        os.kill(old[0], signal.SIGKILL)
        wait_until(lambda: sum(one.done() for one in asked) > 0, "its clients to see it")
        wait_until(lambda: len(workers_of(proxy)) == WORKERS and old[0] not in workers_of(proxy), "another one")
        proxy.client.close()
        proxy.client = httpx.Client(base_url=proxy.url, timeout=START_DEADLINE, trust_env=False, verify=TLS)
        lost = sum(one.done() for one in asked)
        assert 0 < lost < 9
        wait_until(lambda: proxy.state()["in_flight"] == 9 - lost, "what it had to be counted no more")
        assert [item["in_flight"] for item in proxy.instances("decode")] == [9 - lost]
        stack.decode.gate.set()
        wait_until(lambda: all(one.done() for one in asked), "the others' requests to be answered")
        errors = [one.exception() for one in asked]
        assert sum(error is None for error in errors) == 9 - lost
        assert all(isinstance(error, httpx.TransportError) for error in errors if error is not None)
    stack.decode.reply = Reply()
    wait_until(lambda: proxy.outcomes()["ok"] == before + 9 - lost, "those to be counted")
    assert "ended, killed by SIGKILL" in proxy.log
    # The new one serves, and knows all that the others do.
    wait_until(lambda: all(descriptors(pid) > 8 for pid in workers_of(proxy)), "it to have begun")
    assert {answer.json()["status"] for answer in everywhere(proxy, "/status")} == {"ok"}


def test_strangers_connections_make_room_whichever_worker_has_them(stack: Stack) -> None:
    with contextlib.ExitStack() as strangers:
        for _ in range(150):
            strangers.enter_context(connect(stack.proxy.url))
        assert ask(stack.proxy).status_code == 200
        wait_until(lambda: stack.proxy.state()["connections"]["open"] <= 60, "no more than may be")
        assert stack.proxy.state()["connections"]["open"] >= 50  # nor is room made that nobody needs


def test_bodies_that_do_not_come_to_an_end_make_room_whichever_worker_has_them(stack: Stack) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100001\r\n\r\n"
    with contextlib.ExitStack() as strangers:
        for _ in range(8):
            sock = strangers.enter_context(connect(stack.proxy.url))
            sock.sendall(head + b"x" * 100000)
            time.sleep(0.02)
        for _ in range(6):
            with httpx.Client(base_url=stack.proxy.url, timeout=START_DEADLINE, trust_env=False, verify=TLS) as client:
                answer = client.post("/v1/completions", json={"prompt": "x" * 90000})
            assert answer.status_code == 200, answer.text


def test_a_keys_limits_hold_over_all_workers(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(
        "alices-key-0123456789 name=alice requests-per-minute=10\nbobs-key-0123456789 name=bob max-in-flight=4\n"
    )
    options = ["--workers", "3", "--api-key-file", str(keys)]
    with Backend("decode") as decode, Proxy([], [decode.url], "--prefill", decode.url, *options) as proxy:

        def status(key: str) -> int:
            return ask(proxy, authorization=f"Bearer {key}").status_code

        began = time.monotonic()
        with ThreadPoolExecutor(24) as pool:
            statuses = list(pool.map(status, ["alices-key-0123456789"] * 24))
        taken = statuses.count(200)
        assert 10 <= taken <= 11 + (time.monotonic() - began) / 6
        assert statuses.count(429) == 24 - taken
        decode.reply = Reply(hold=True)
        with ThreadPoolExecutor(9) as pool:
            asked = [pool.submit(status, "bobs-key-0123456789") for _ in range(9)]
            wait_until(lambda: sum(one.done() for one in asked) == 5, "the limit to be reached")
            decode.gate.set()
            assert sorted(one.result() for one in asked) == [200] * 4 + [429] * 5
        assert f'kvdirect_router_key_requests_total{{key="alice"}} {taken}.0' in proxy.client.get("/metrics").text
        keys.write_text("carols-key-0123456789 name=carol\n")
        wait_until(lambda: [status("carols-key-0123456789") for _ in range(6)] == [200] * 6, "the new file to be known")
        assert [status("alices-key-0123456789") for _ in range(6)] == [401] * 6


def test_a_signal_drains_all_workers(tmp_path: Path) -> None:
    del tmp_path
    with Backend("decode") as decode, Proxy([decode.url], [decode.url], "--workers", "2") as proxy:
        decode.reply = Reply(hold=True)
        body = {"prompt": ["a", "b"], "stream": True}
        with (
            httpx.stream("POST", f"{proxy.url}/v1/completions", json=body, timeout=START_DEADLINE, verify=TLS) as one,
            httpx.stream("POST", f"{proxy.url}/v1/completions", json=body, timeout=START_DEADLINE, verify=TLS) as other,
        ):
            parts = [one.iter_bytes(), other.iter_bytes()]
            assert all(b"first" in next(each) for each in parts)
            proxy.process.terminate()
            wait_until(
                lambda: {answer.status_code for answer in everywhere(proxy, "/health", connections=8)} == {503},
                "draining",
            )
            assert {answer.json()["status"] for answer in everywhere(proxy, "/health", connections=8)} == {"draining"}
            assert ask(proxy).status_code == 503
            decode.gate.set()
            assert all(b"".join(each).endswith(b"data: [DONE]\n\n") for each in parts)
        assert proxy.finish() == 0


def test_a_second_signal_ends_the_waiting() -> None:
    with Backend("decode") as decode, Proxy([decode.url], [decode.url], "--workers", "2") as proxy:
        decode.reply = Reply(hold=True)
        with httpx.stream(
            "POST", f"{proxy.url}/v1/completions", json={"prompt": ["a", "b"], "stream": True}, timeout=START_DEADLINE
        ) as answer:
            parts = answer.iter_bytes()
            assert b"first" in next(parts)
            proxy.process.terminate()
            wait_until(lambda: httpx.get(f"{proxy.url}/health", verify=TLS).status_code == 503, "draining")
            proxy.process.terminate()
            rest = b"".join(parts)
            assert b"stopping" in rest
            assert b"[DONE]" not in rest
        assert proxy.finish() == 0
        decode.gate.set()


def test_workers_end_with_the_process_that_started_them() -> None:
    with Backend("decode") as decode:
        with Proxy([decode.url], [decode.url], "--workers", "2") as proxy:
            pids = workers_of(proxy)
            port = int(proxy.url.rpartition(":")[2])
            proxy.process.kill()
            proxy.process.wait(DEADLINE)
            wait_until(lambda: not any(map(running, pids)), "them to end")
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port))
            sock.listen()


def test_a_worker_that_hangs_does_not_hold_up_the_others(stack: Stack) -> None:
    """It takes no orders, so it is ended; the change is made all the same."""
    old = workers_of(stack.proxy)
    os.kill(old[0], signal.SIGSTOP)
    with Backend("second") as second:
        answers: list[int] = []

        def join() -> None:
            with httpx.Client(
                base_url=stack.proxy.url, timeout=2 * START_DEADLINE, trust_env=False, verify=TLS
            ) as client:
                headers = {"authorization": f"Bearer {TOKEN}"}
                body = {"url": second.url, "role": "decode"}
                for _ in range(3):  # a connection may be in the stopped worker's hands
                    with contextlib.suppress(httpx.TransportError):
                        answers.append(client.post("/admin/instances", headers=headers, json=body).status_code)
                        return

        asking = threading.Thread(target=join)
        asking.start()
        asking.join(2 * START_DEADLINE)
        assert answers
        assert answers[0] in {200, 201}
        wait_until(lambda: not running(old[0]), "it to be ended")
        wait_until(lambda: len(workers_of(stack.proxy)) == WORKERS, "another one")
        stack.proxy.client.close()
        stack.proxy.client = httpx.Client(base_url=stack.proxy.url, timeout=START_DEADLINE, trust_env=False, verify=TLS)
        assert change(stack.proxy, "DELETE", params={"url": second.url}).status_code == 200


def test_a_certificate_that_cannot_be_used_is_said_before_any_worker_starts(tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("no certificate")
    with Backend("decode") as decode, pytest.raises(AssertionError, match="--ssl-certfile"):
        Proxy([decode.url], [decode.url], "--workers", "2", "--ssl-certfile", str(tmp_path / "none.pem"))
