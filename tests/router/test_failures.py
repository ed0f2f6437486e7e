# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Instances that fail, and what the client is told."""

import json

import pytest
from played_backend import Backend, Reply, wait_until
from router_process import Proxy, Stack

from kvdirect.harness.processes import free_port


@pytest.mark.parametrize(
    ("reply", "counter"),
    [
        (Reply(status=500), "local_failed"),
        (Reply(status=503, json={"error": "busy"}), "local_failed"),
        (Reply(status=302, headers={"location": "http://203.0.113.1/"}), "local_failed"),
        (Reply(raw=b"<html>"), "local_failed"),
        (Reply(raw=b"[1]"), "local_failed"),
        (Reply(raw=b'{"kv_transfer_params": {"x": NaN}}'), "local_failed"),
        (Reply(break_off=True), "local_broken"),
        (Reply(json={"choices": []}), "local_no_params"),
        (Reply(json={"kv_transfer_params": None}), "local_no_params"),
        (Reply(json={"kv_transfer_params": "text"}), "local_no_params"),
    ],
)
def test_a_failed_prefill_falls_back_to_decode_alone(stack: Stack, reply: Reply, counter: str) -> None:
    before = stack.proxy.counter("prefills", counter)
    done = stack.proxy.counter("prefills", "disaggregated")
    stack.prefill.reply = reply
    answer = stack.proxy.complete(max_tokens=5)
    assert answer.json()["served_by"] == "decode"
    assert stack.decode.only.body == {"model": "m", "prompt": "hi", "max_tokens": 5}
    assert stack.proxy.counter("prefills", counter) == before + 1
    assert stack.proxy.counter("prefills", "disaggregated") == done
    told = f"request {answer.headers['x-request-id']}: not prefilled apart"
    wait_until(lambda: told in stack.proxy.log, "the log to say it")
    assert stack.prefill.url in stack.proxy.log


@pytest.mark.parametrize("status", [400, 401, 404, 429])
def test_a_refusal_by_prefill_decides_for_itself_only(stack: Stack, status: int) -> None:
    """Decode may have an adapter, a key or a context that prefill has not."""
    before = stack.proxy.counter("prefills", "local_refused")
    stack.prefill.reply = Reply(status=status, json={"error": {"message": "no such adapter", "code": status}})
    answer = stack.proxy.complete(max_tokens=5)
    assert answer.json()["served_by"] == "decode"
    assert stack.decode.only.body == {"model": "m", "prompt": "hi", "max_tokens": 5}
    assert stack.proxy.counter("prefills", "local_refused") == before + 1


@pytest.mark.parametrize("status", [400, 401, 404, 429])
def test_a_refusal_by_both_is_decodes(stack: Stack, status: int) -> None:
    body = {"error": {"message": "prompt too long", "type": "BadRequestError", "code": status, "odd": [1]}}
    stack.prefill.reply = Reply(status=403, json={"error": {"message": "prefill's"}})
    stack.decode.reply = Reply(status=status, json=body, headers={"retry-after": "3"})
    answer = stack.proxy.complete()
    assert answer.status_code == status
    assert answer.content == json.dumps(body, separators=(",", ":")).encode()
    assert answer.headers["retry-after"] == "3"
    assert answer.headers["x-request-id"] == stack.decode.only.headers["x-request-id"]


@pytest.mark.parametrize("status", [400, 500])
def test_an_error_answer_of_decode_is_passed_on(stack: Stack, status: int) -> None:
    stack.decode.reply = Reply(status=status, json={"error": {"message": "from decode"}})
    answer = stack.proxy.complete()
    assert (answer.status_code, answer.json()) == (status, {"error": {"message": "from decode"}})


def test_a_decode_answer_that_breaks_off_is_a_502_that_names_it(stack: Stack) -> None:
    stack.decode.reply = Reply(break_off=True)
    answer = stack.proxy.complete()
    assert answer.status_code == 502
    error = answer.json()["error"]
    assert error["type"] == "server_error"
    assert error["code"] == 502
    assert f"decode instance {stack.decode.url} broke off" in error["message"]


def test_prefill_that_is_not_there(stack: Stack) -> None:
    """Refused at its health check: no prefill is tried; the state is degraded, requests are served."""
    gone = f"http://127.0.0.1:{free_port()}"
    with Proxy([gone], [stack.decode.url]) as proxy:
        assert proxy.complete().json()["served_by"] == "decode"
        state = proxy.state()
        assert proxy.client.get("/health").status_code == 200
        assert state["status"] == "degraded"
        assert state["counters"]["prefills"]["local_no_prefill"] == 1
        assert proxy.instances("prefill")[0]["url"] == gone
        assert "Connect" in proxy.instances("prefill")[0]["error"]


def test_prefill_that_goes_between_two_health_checks() -> None:
    """Still healthy by its last check, refused when asked: the request is served, the instance out at once."""
    with (
        Backend("prefill") as prefill,
        Backend("decode") as decode,
        Proxy([prefill.url], [decode.url], "--health-interval", "3600") as proxy,
    ):
        prefill.stop()
        assert proxy.complete().json()["served_by"] == "decode"
        assert proxy.counter("prefills", "local_unreachable") == 1
        proxy.wait_health("prefill", False)
        assert proxy.complete().json()["served_by"] == "decode"
        assert proxy.counter("prefills", "local_no_prefill") == 1


def test_prefill_that_takes_too_long(stack: Stack) -> None:
    """The instance has the time to read the request, without which it cannot see that it is cancelled."""
    stack.prefill.reply = Reply(hold=True)
    with Proxy([stack.prefill.url], [stack.decode.url], "--prefill-timeout", "2") as proxy:
        assert proxy.complete().json()["served_by"] == "decode"
        assert proxy.counter("prefills", "local_timeout") == 1
        assert stack.prefill.cancelled.wait(10)


def test_decode_that_is_silent_too_long(stack: Stack) -> None:
    stack.decode.reply = Reply(hold=True)
    with Proxy([stack.prefill.url], [stack.decode.url], "--first-byte-timeout", "2") as proxy:
        answer = proxy.complete()
        assert answer.status_code == 504
        assert "--first-byte-timeout" in answer.json()["error"]["message"]
        assert stack.decode.cancelled.wait(10)


def test_health_takes_instances_out_and_back_and_the_rest_serve() -> None:
    with (
        Backend("prefill") as prefill,
        Backend("first") as first,
        Backend("second") as second,
        Proxy([prefill.url], [first.url, second.url]) as proxy,
    ):

        def served() -> set[str]:
            return {proxy.complete().json()["served_by"] for _ in range(4)}

        assert served() == {"first", "second"}
        first.stop()
        proxy.wait_health("decode", False, True)
        assert served() == {"second"}
        second.health = 500
        proxy.wait_health("decode", False, False)

        answer = proxy.complete()
        assert answer.status_code == 503
        message = answer.json()["error"]["message"]
        assert first.url in message
        assert f"{second.url}: /health answered 500" in message
        assert answer.headers["x-request-id"]
        assert proxy.client.get("/health").status_code == 503
        assert proxy.state()["status"] == "unavailable"
        models = proxy.client.get("/v1/models")
        assert models.status_code == 503
        assert "no healthy decode instance" in models.json()["error"]["message"]
        prefills = len(prefill.seen)
        proxy.complete()
        assert len(prefill.seen) == prefills  # none is spent on a request that cannot be decoded

        first.start()
        proxy.wait_health("decode", True, False)
        assert served() == {"first"}


def test_decode_that_goes_between_two_health_checks_is_replaced_by_the_next() -> None:
    with Backend("prefill") as prefill, Backend("first") as first, Backend("second") as second:
        prefill.reply = Reply(params={"do_remote_prefill": True})
        with Proxy([prefill.url], [first.url, second.url], "--health-interval", "3600") as proxy:
            first.stop()
            for _ in range(2):
                assert proxy.complete().json()["served_by"] == "second"
            assert [seen.body["kv_transfer_params"] for seen in second.seen] == [{"do_remote_prefill": True}] * 2
            second.stop()
            answer = proxy.complete()
            assert answer.status_code == 503
            assert second.url in answer.json()["error"]["message"]


def test_prefill_instances_take_turns(stack: Stack) -> None:
    with Backend("other") as other, Proxy([stack.prefill.url, other.url], [stack.decode.url]) as proxy:
        for _ in range(4):
            proxy.complete()
        assert (len(stack.prefill.seen), len(other.seen)) == (2, 2)
