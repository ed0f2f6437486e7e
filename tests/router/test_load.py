# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Who gets the next request, what is counted as in flight, and the limits on it."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest
from played_backend import DEADLINE, Backend, Reply, wait_until
from router_process import Proxy

LOCAL = {"prompt": ["a", "b"]}  # goes to decode alone


@contextmanager
def held_requests(proxy: Proxy, backends: list[Backend], count: int) -> Iterator[list[httpx.Response]]:
    """`count` requests that wait in the backends while the context is open; afterwards their answers."""
    before = sum(len(backend.seen) for backend in backends)
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(
            httpx.post(f"{proxy.url}/v1/completions", json={"model": "m", **LOCAL}, timeout=30, trust_env=False)
        )

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    wait_until(lambda: sum(len(backend.seen) for backend in backends) == before + count, "the requests to arrive")
    try:
        yield answers
    finally:
        for backend in backends:
            backend.gate.set()
        for thread in threads:
            thread.join(DEADLINE)


def test_the_least_loaded_is_next() -> None:
    """Four requests hang on one instance; with equal turns every other new one would go there too."""
    with Backend("busy") as busy, Backend("free") as free, Proxy([busy.url], [busy.url, free.url]) as proxy:
        busy.reply = Reply(hold=True)
        free.health = 500
        proxy.wait_health("decode", True, False)
        with held_requests(proxy, [busy], 4):
            free.health = 200
            proxy.wait_health("decode", True, True)
            assert [item["in_flight"] for item in proxy.instances("decode")] == [4, 0]
            assert {proxy.complete(**LOCAL).json()["served_by"] for _ in range(6)} == {"free"}
        proxy.wait_idle()


def test_equals_take_turns() -> None:
    with (
        Backend("a") as a,
        Backend("b") as b,
        Backend("c") as c,
        Proxy([a.url], [a.url, b.url, c.url]) as proxy,
    ):
        served = [proxy.complete(**LOCAL).json()["served_by"] for _ in range(9)]
        assert sorted(served[:3]) == ["a", "b", "c"]
        assert served == served[:3] * 3


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "reply",
    [Reply(), Reply(status=500), Reply(status=400), Reply(break_off=True), Reply(raw=b"<html>")],
    ids=["ok", "500", "400", "broken", "no json"],
)
def test_no_count_leaks_however_a_request_ends(stream: bool, reply: Reply) -> None:
    with Backend("prefill") as prefill, Backend("decode") as decode, Proxy([prefill.url], [decode.url]) as proxy:
        prefill.reply = Reply(params={"ticket": 1})
        decode.reply = reply
        proxy.complete(stream=stream)
        prefill.reply, decode.reply = reply, Reply()
        proxy.complete(stream=stream)
        proxy.client.post("/v1/completions", content=b"{")
        proxy.wait_idle()
        assert sum(proxy.state()["counters"]["requests"].values()) == 3


def test_no_count_leaks_when_clients_leave() -> None:
    """In the prefill, before the first byte, in a stream, and before the body was sent."""
    with (
        Backend("prefill") as prefill,
        Backend("decode") as decode,
        Proxy([prefill.url], [decode.url]) as proxy,
    ):
        prefill.reply = Reply(hold=True)
        asyncio.run(_ask_and_leave(proxy.url, 5, stream=False, until=lambda: len(prefill.seen) == 5))
        proxy.wait_idle()  # else an answer of prefill may overtake the news that its client has left
        prefill.gate.set()
        prefill.reply = Reply(params={"ticket": 1})
        decode.reply = Reply(hold=True)
        for count, stream in ((5, False), (10, True)):
            asyncio.run(_ask_and_leave(proxy.url, 5, stream=stream, until=lambda: len(decode.seen) == count))  # noqa: B023
        proxy.wait_idle()
        assert proxy.outcomes() == {"client_gone": 15}


async def _ask_and_leave(url: str, count: int, *, stream: bool, until: Callable[[], bool]) -> None:
    async with httpx.AsyncClient(timeout=DEADLINE, trust_env=False) as client:
        body = {"model": "m", "prompt": "p", "stream": stream}
        tasks = [asyncio.create_task(client.post(f"{url}/v1/completions", json=body)) for _ in range(count)]
        async with asyncio.timeout(DEADLINE):
            while not until():  # noqa: ASYNC110 (it runs in another thread)
                await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_a_client_that_takes_nothing_is_let_go() -> None:
    """It stays connected and reads nothing: its request must not be held for it for ever."""
    with Backend("decode") as decode, Proxy([decode.url], [decode.url], "--idle-timeout", "1") as proxy:
        decode.reply = Reply(events=b"data: " + b"x" * 30_000_000 + b"\n\n")
        body = b'{"stream": true, "prompt": ["a", "b"]}'
        host, port = proxy.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=DEADLINE) as sock:
            head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            sock.sendall(head.encode() + body)
            wait_until(lambda: proxy.counter("requests", "client_gone") == 1, "the router to let it go")
            proxy.wait_idle()


def test_more_than_the_limit_in_flight_is_a_429() -> None:
    with Backend("decode") as decode, Proxy([decode.url], [decode.url], "--max-in-flight", "2") as proxy:
        decode.reply = Reply(hold=True)
        with held_requests(proxy, [decode], 2) as answers:
            refused = proxy.complete()
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "1"
            assert "--max-in-flight" in refused.json()["error"]["message"]
            assert refused.json()["error"]["type"] == "invalid_request_error"
            assert proxy.client.get("/health").status_code == 200
        assert [answer.status_code for answer in answers] == [200, 200]
        proxy.wait_idle()
        assert proxy.complete().status_code == 200
        assert proxy.outcomes() == {"ok": 3, "limited": 1}


def test_instances_at_their_limit_get_no_more() -> None:
    with (
        Backend("prefill") as prefill,
        Backend("a") as a,
        Backend("b") as b,
        Proxy([prefill.url], [a.url, b.url], "--max-in-flight-per-instance", "1") as proxy,
    ):
        a.reply = b.reply = Reply(hold=True)
        with held_requests(proxy, [a, b], 2):
            assert (len(a.seen), len(b.seen)) == (1, 1)
            refused = proxy.complete()
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert "--max-in-flight-per-instance" in refused.json()["error"]["message"]
            assert prefill.seen == []
        proxy.wait_idle()
        assert proxy.complete().status_code == 200
        assert proxy.outcomes() == {"ok": 3, "no_decode": 1}


def test_prefill_at_its_limit_leaves_the_prompt_to_decode() -> None:
    with (
        Backend("prefill") as prefill,
        Backend("a") as a,
        Backend("b") as b,
        Proxy([prefill.url], [a.url, b.url], "--max-in-flight-per-instance", "1") as proxy,
    ):
        prefill.reply = Reply(hold=True, params={"ticket": 1})
        waiting = threading.Thread(target=proxy.complete)
        waiting.start()
        wait_until(lambda: len(prefill.seen) == 1, "the prefill to arrive")
        answer = httpx.post(f"{proxy.url}/v1/completions", json={"prompt": "p"}, timeout=DEADLINE, trust_env=False)
        assert answer.status_code == 200
        assert proxy.counter("prefills", "local_no_prefill") == 1
        prefill.gate.set()
        waiting.join(DEADLINE)
        proxy.wait_idle()
