# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Tickets that nobody will use: who is told, of which, how soon, and what is left alone."""

import itertools
import json
import signal
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from played_backend import Backend, Reply, Seen, wait_until
from router_process import Proxy, Stack

NUMBERS = itertools.count(1)
SOON = 2.0


def ticket() -> dict[str, object]:
    """One of ours, like no other."""
    return {"do_remote_prefill": True, "kvdirect_lease": f"1:00ff:{next(NUMBERS):x}:9:1", "kvdirect_dp_rank": 3}


def foreign() -> dict[str, object]:
    return {"do_remote_prefill": True, "remote_request_id": f"cmpl-{next(NUMBERS)}", "remote_engine_id": "other"}


@pytest.fixture
def pair(stack: Stack) -> Stack:
    """Prefill makes tickets of ours, and the router knows that it does."""
    stack.prefill.reply = Reply(params=ticket)
    stack.proxy.complete()
    stack.prefill.seen.clear()
    stack.decode.seen.clear()
    return stack


def given(backend: Backend) -> list[dict[str, Any]]:
    return [seen.body["kv_transfer_params"] for seen in backend.returned]


def used(backend: Backend) -> list[dict[str, Any]]:
    return [seen.body["kv_transfer_params"] for seen in backend.seen]


def wait_returned(backend: Backend, count: int = 1) -> list[dict[str, Any]]:
    wait_until(lambda: len(backend.returned) >= count, "tickets to come back", SOON)
    assert len(backend.returned) == count
    return given(backend)


def hang_up(stack: Stack, *, when: Backend, **body: object) -> None:
    """A client that leaves once `when` has its request."""
    raw = json.dumps({"model": "m", "prompt": "hi", **body}).encode()
    parts = urlsplit(stack.proxy.url)
    with socket.create_connection((parts.hostname, parts.port)) as sock:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nContent-Length: %d\r\n\r\n"
        sock.sendall(head % len(raw) + raw)
        wait_until(lambda: len(when.seen) == 1, "the request to arrive")


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_ticket_that_decode_refused_goes_back_to_its_maker(pair: Stack, status: int) -> None:
    before = pair.proxy.counter("tickets_returned", "returned")
    pair.decode.reply = Reply(status=status)
    assert pair.proxy.complete().status_code == status
    assert wait_returned(pair.prefill) == used(pair.decode)
    seen: Seen = pair.prefill.returned[0]
    assert seen.headers["x-data-parallel-rank"] == "3"
    assert pair.decode.returned == []
    wait_until(lambda: pair.proxy.counter("tickets_returned", "returned") == before + 1, "it to be counted", SOON)


@pytest.mark.parametrize("stream", [False, True])
def test_a_ticket_that_was_redeemed_is_left_alone(pair: Stack, stream: bool) -> None:
    assert pair.proxy.complete(stream=stream).status_code == 200
    pair.decode.reply = Reply(status=400)
    pair.proxy.complete()
    assert wait_returned(pair.prefill) == used(pair.decode)[1:]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_before_the_answer(pair: Stack, stream: bool) -> None:
    pair.decode.reply = Reply(hold=True, raw=b"{}", media="text/plain")
    hang_up(pair, when=pair.decode, stream=stream)
    assert wait_returned(pair.prefill) == used(pair.decode)
    assert pair.prefill.returned[0].headers["authorization"] == "Bearer k"


def test_a_client_that_leaves_during_prefill(pair: Stack) -> None:
    """The prefill may have ended, and its answer be on the way: what it was asked under says which it was."""
    pair.prefill.reply = Reply(hold=True, params=ticket)
    hang_up(pair, when=pair.prefill)
    [back] = wait_returned(pair.prefill)
    assert back == {"do_remote_prefill": True, "kvdirect_claim": used(pair.prefill)[0]["kvdirect_claim"]}
    assert pair.decode.seen == []


@pytest.mark.parametrize("reply", [Reply(status=500), Reply(break_off=True)], ids=["failed", "broken"])
def test_a_prefill_that_failed_after_it_was_asked(pair: Stack, reply: Reply) -> None:
    pair.prefill.reply = reply
    assert pair.proxy.complete().status_code == 200
    [back] = wait_returned(pair.prefill)
    assert back["kvdirect_claim"] == used(pair.prefill)[0]["kvdirect_claim"]


def test_other_connectors_are_told_by_a_decode_instance_and_of_no_claims(stack: Stack) -> None:
    """Theirs gives a cache back where a request with its ticket is refused; a claim would mean nothing to them."""
    with Backend("prefill") as prefill, Proxy([prefill.url], [stack.decode.url]) as proxy:
        pair = Stack(proxy, prefill, stack.decode)
        prefill.reply = Reply(params=foreign, hold=True)
        hang_up(pair, when=prefill)
        wait_until(prefill.cancelled.is_set, "the router to cancel it")  # else its answer may come first
        prefill.gate.set()
        prefill.seen.clear()
        stack.decode.reply = Reply(status=400)
        assert proxy.complete().status_code == 400
        assert wait_returned(stack.decode) == used(stack.decode)
        assert prefill.returned == []


@pytest.fixture
def trio() -> Iterator[tuple[Proxy, Backend, Backend, Backend]]:
    with (
        Backend("prefill") as prefill,
        Backend("first") as first,
        Backend("second") as second,
        Proxy([prefill.url], [first.url, second.url], "--first-byte-timeout", "1") as proxy,
    ):
        prefill.reply = Reply(params=ticket)
        yield proxy, prefill, first, second


@pytest.mark.parametrize("reply", [Reply(break_off=True), Reply(status=500)], ids=["broken", "failed"])
def test_a_ticket_that_a_retry_leaves_behind(trio: tuple[Proxy, Backend, Backend, Backend], reply: Reply) -> None:
    proxy, prefill, first, _ = trio
    first.reply = reply
    assert proxy.complete().json()["served_by"] == "second"
    assert wait_returned(prefill) == used(first)


def test_a_ticket_whose_decode_is_late(trio: tuple[Proxy, Backend, Backend, Backend]) -> None:
    proxy, prefill, first, _ = trio
    first.reply = Reply(hold=True)
    assert proxy.complete().status_code == 504
    assert wait_returned(prefill) == used(first)


def test_a_ticket_that_the_next_instance_uses_does_not_go_back(trio: tuple[Proxy, Backend, Backend, Backend]) -> None:
    proxy, prefill, first, second = trio
    first.stop()
    assert proxy.complete().json()["served_by"] == "second"
    second.reply = Reply(status=400)
    assert proxy.complete().status_code == 400
    assert wait_returned(prefill) == used(second)[1:]


def test_tickets_in_hand_go_back_before_the_router_ends() -> None:
    with Backend("prefill") as prefill, Backend("decode") as decode:
        with Proxy([prefill.url], [decode.url], "--drain-timeout", "0.2") as proxy:
            prefill.reply, decode.reply = Reply(params=ticket), Reply(hold=True)
            stack = Stack(proxy, prefill, decode)
            parts = urlsplit(proxy.url)
            with socket.create_connection((parts.hostname, parts.port)) as sock:
                raw = b'{"model":"m","prompt":"hi"}'
                sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(raw) + raw)
                wait_until(lambda: len(decode.seen) == 1, "the request to arrive")
                stack.proxy.process.send_signal(signal.SIGTERM)
                assert proxy.finish() == 0
        assert given(prefill) == used(decode)


def test_an_engine_that_takes_nothing_back_is_counted_and_logged(pair: Stack) -> None:
    before = pair.proxy.counter("tickets_returned", "failed")
    with Backend("prefill") as prefill, Proxy([prefill.url], [pair.decode.url]) as proxy:
        prefill.reply = Reply(params=ticket)
        pair.decode.reply = Reply(hold=True)
        hang_up(Stack(proxy, prefill, pair.decode), when=pair.decode)
        prefill.stop()
        wait_until(lambda: proxy.counter("tickets_returned", "failed") == 1, "it to be counted")
        wait_until(lambda: "could not be given back" in proxy.log, "the log to say it")
    assert pair.proxy.counter("tickets_returned", "failed") == before
