# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Decode instances that fail with a request: who is asked again, with which ticket, and what the client sees."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from played_backend import Backend, Reply
from router_process import Proxy

ABORTED = {"choices": [{"text": "hal", "finish_reason": "abort"}]}
ERROR_EVENT = b'data: {"error": {"message": "Internal server error", "code": 500}}\n\ndata: [DONE]\n\n'
TOKEN_EVENT = b'data: {"choices": [{"text": "early", "finish_reason": null}]}\n\n'
ABORT_EVENT = b'data: {"choices": [{"text": "", "finish_reason": "abort"}]}\n\ndata: [DONE]\n\n'


@dataclass
class Trio:
    """A proxy with one prefill and two decode backends; `first` is the one that is asked first."""

    proxy: Proxy
    prefill: Backend
    first: Backend
    second: Backend

    def retries(self) -> dict[str, int]:
        counts = self.proxy.state()["counters"]["retries"]
        return {reason: number for reason, number in counts.items() if number}


@pytest.fixture
def trio() -> Iterator[Trio]:
    tickets = itertools.count(1)
    with (
        Backend("prefill") as prefill,
        Backend("first") as first,
        Backend("second") as second,
        Proxy([prefill.url], [first.url, second.url], "--health-interval", "0.5") as proxy,
    ):
        prefill.reply = Reply(params=lambda: {"ticket": next(tickets)})
        yield Trio(proxy, prefill, first, second)
        proxy.wait_idle()


def params(backend: Backend) -> list[object]:
    """The tickets that a decode backend was given."""
    return [seen.body.get("kv_transfer_params") for seen in backend.seen]


@pytest.mark.parametrize("reply", [Reply(break_off=True), Reply(json=ABORTED)], ids=["broken", "aborted"])
def test_what_breaks_off_is_retried_elsewhere_with_a_new_ticket(trio: Trio, reply: Reply) -> None:
    trio.first.reply = reply
    assert trio.proxy.complete().json()["served_by"] == "second"
    assert params(trio.first) == [{"ticket": 1}]
    assert params(trio.second) == [{"ticket": 2}]  # the first may have been redeemed
    assert trio.retries() == {"broken": 1}


def test_a_refused_connection_is_retried_elsewhere_with_the_same_ticket(trio: Trio) -> None:
    trio.first.health = 200
    trio.first.stop()
    assert trio.proxy.complete().json()["served_by"] == "second"
    assert params(trio.second) == [{"ticket": 1}]
    assert len(trio.prefill.seen) == 1


@pytest.mark.parametrize(
    "reply",
    [Reply(status=500), Reply(status=503, json={"error": "busy"})],
    ids=["500", "503"],
)
def test_a_failed_answer_is_retried_elsewhere_without_a_ticket(trio: Trio, reply: Reply) -> None:
    trio.first.reply = reply
    assert trio.proxy.complete().json()["served_by"] == "second"
    assert params(trio.first) == [{"ticket": 1}]
    assert params(trio.second) == [None]
    assert trio.retries() == {"failed": 1}
    assert trio.proxy.counter("prefills", "local_retry") == 1
    assert trio.proxy.outcomes() == {"ok": 1}


@pytest.mark.parametrize(
    ("events", "ticket"),
    [(ERROR_EVENT, None), (ABORT_EVENT, {"ticket": 2}), (TOKEN_EVENT + ABORT_EVENT, {"ticket": 2})],
    ids=["error", "abort", "token and abort at once"],
)
def test_a_stream_that_fails_before_anything_was_sent_is_retried(trio: Trio, events: bytes, ticket: object) -> None:
    trio.first.reply = Reply(events=events)
    answer = trio.proxy.complete(stream=True)
    assert answer.status_code == 200
    assert b'"first"' in answer.content
    assert b"error" not in answer.content
    assert b"abort" not in answer.content
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert params(trio.second) == [ticket]


def test_a_stream_that_has_begun_is_not_retried(trio: Trio) -> None:
    trio.first.reply = Reply(break_off=True)
    answer = trio.proxy.complete(stream=True)
    assert b'data: {"error":' in answer.content
    assert trio.second.seen == []
    assert trio.retries() == {}
    assert trio.proxy.outcomes() == {"failed": 1}


def test_a_stream_that_is_aborted_after_it_began_ends_with_an_error_event(trio: Trio) -> None:
    """vLLM would end it like any other, with a finish_reason that nobody looks for."""
    trio.first.reply = Reply(hold=True, last=ABORT_EVENT)
    url = f"{trio.proxy.url}/v1/completions"
    with trio.proxy.client.stream("POST", url, json={"prompt": "p", "stream": True}) as answer:
        chunks = answer.iter_raw()
        assert b'"first"' in next(chunks)
        trio.first.gate.set()
        rest = b"".join(chunks)
    assert b'"finish_reason"' not in rest
    assert b"[DONE]" not in rest
    assert b'data: {"error":' in rest
    assert b"is being stopped" in rest
    assert trio.second.seen == []
    assert trio.proxy.outcomes() == {"failed": 1}


def test_an_error_event_in_a_stream_that_has_begun_is_passed_on_and_counted(trio: Trio) -> None:
    trio.first.reply = Reply(hold=True, last=ERROR_EVENT)
    trio.first.gate.set()
    assert ERROR_EVENT in trio.proxy.complete(stream=True).content
    trio.proxy.wait_idle()
    assert trio.proxy.outcomes() == {"failed": 1}


@pytest.mark.parametrize(
    "reply",
    [
        Reply(json={"choices": [{"text": '{"finish_reason":"abort"}', "finish_reason": "stop"}]}),
        Reply(json={"choices": [{"text": "x"}], "finish_reason": "abort"}),
        Reply(raw=b'{"choices": "abort", "text": "abort"}'),
        Reply(raw=b'not json "abort"'),
    ],
)
def test_what_only_looks_like_an_abort_is_passed_on(trio: Trio, reply: Reply) -> None:
    trio.first.reply = reply
    assert trio.proxy.complete().status_code == 200
    assert trio.second.seen == []


def test_aborts_without_end_are_a_502(trio: Trio) -> None:
    trio.first.reply = trio.second.reply = Reply(json=ABORTED)
    answer = trio.proxy.complete()
    assert answer.status_code == 502
    assert "is being stopped" in answer.json()["error"]["message"]


@pytest.mark.parametrize("status", [400, 404, 429])
def test_a_refusal_is_not_retried(trio: Trio, status: int) -> None:
    trio.first.reply = Reply(status=status, json={"error": {"message": "no"}})
    assert trio.proxy.complete().status_code == status
    assert trio.second.seen == []
    assert trio.proxy.outcomes() == {"refused_by_instance": 1}


def test_a_late_answer_is_not_retried() -> None:
    with (
        Backend("first") as first,
        Backend("second") as second,
        Proxy([first.url], [first.url, second.url], "--first-byte-timeout", "0.5") as proxy,
    ):
        first.reply = second.reply = Reply(hold=True)
        answer = proxy.complete(prompt=["a", "b"])
        assert answer.status_code == 504
        assert len(first.seen) + len(second.seen) == 1
        assert proxy.outcomes() == {"timeout": 1}
        proxy.wait_idle()


def test_a_stream_that_stalls_ends_with_an_error_event() -> None:
    with (
        Backend("decode") as decode,
        Proxy([decode.url], [decode.url], "--idle-timeout", "0.5") as proxy,
    ):
        decode.reply = Reply(hold=True)
        answer = proxy.complete(prompt=["a", "b"], stream=True)
        assert b"--idle-timeout" in answer.content
        assert b'"first"' in answer.content
        assert decode.cancelled.wait(10)
        proxy.wait_idle()


def test_the_only_instance_is_tried_again_where_the_ticket_may_be_to_blame(trio: Trio) -> None:
    trio.second.stop()
    trio.proxy.wait_health("decode", True, False)
    trio.first.reply = Reply(status=500, json={"error": {"message": "mine"}})
    answer = trio.proxy.complete()
    assert (answer.status_code, answer.json()["error"]["message"]) == (500, "mine")
    assert params(trio.first) == [{"ticket": 1}, None]
    trio.first.seen.clear()
    assert trio.proxy.complete(prompt=["a", "b"]).status_code == 500  # never had a ticket: the fault is another
    assert params(trio.first) == [None]


def test_retries_are_bounded(trio: Trio) -> None:
    for backend in (trio.first, trio.second):
        backend.reply = Reply(break_off=True)
    answer = trio.proxy.complete()
    assert answer.status_code == 502
    assert "broke off" in answer.json()["error"]["message"]
    assert len(trio.first.seen) + len(trio.second.seen) == 3
    assert trio.proxy.outcomes() == {"failed": 1}


def test_no_retries_where_none_are_wanted(trio: Trio) -> None:
    urls = [trio.first.url, trio.second.url]
    with Proxy([trio.prefill.url], urls, "--retries", "0") as proxy:
        trio.first.reply = trio.second.reply = Reply(break_off=True)
        assert proxy.complete().status_code == 502
        trio.first.reply = trio.second.reply = Reply(status=500)
        assert proxy.complete().status_code == 500
        assert len(trio.first.seen) + len(trio.second.seen) == 2


def test_a_prefill_that_refuses_the_connection_is_replaced_by_the_next() -> None:
    with (
        Backend("gone") as gone,
        Backend("other") as other,
        Backend("decode") as decode,
        Proxy([gone.url, other.url], [decode.url], "--health-interval", "3600") as proxy,
    ):
        other.reply = Reply(params={"ticket": 1})
        gone.stop()
        for _ in range(2):
            assert proxy.complete().status_code == 200
        assert params(decode) == [{"ticket": 1}] * 2
        assert proxy.counter("prefills", "disaggregated") == 2
        assert proxy.instances("prefill")[0]["state"] == "down"


def test_what_the_client_asked_for_reaches_every_attempt(trio: Trio) -> None:
    asked = {"n": 3, "stop": ["\n"], "logprobs": 2, "tools": [{"x": None}], "unknown": {"deep": [1.0]}}
    trio.first.reply = Reply(status=500)
    trio.proxy.complete(**asked)
    for backend in (trio.first, trio.second):
        body = backend.only.body
        body.pop("kv_transfer_params", None)
        assert json.dumps(body) == json.dumps({"model": "m", "prompt": "hi", **asked})
