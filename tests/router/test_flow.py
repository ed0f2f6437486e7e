# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What each instance is asked, and what the client gets."""

import asyncio
import json
import re
from typing import Any

import httpx
import pytest
from played_backend import Reply
from router_process import Stack

NULLS = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}


def asked_of_prefill(stack: Stack) -> dict[str, Any]:
    """The one request that prefill has seen, without the claim, which is no other's."""
    body = stack.prefill.only.body
    assert re.fullmatch(r"[0-9a-f]{32}", body["kv_transfer_params"].pop("kvdirect_claim"))
    return body


def test_prefill_is_asked_for_one_token_and_decode_for_all(stack: Stack, params: dict[str, object]) -> None:
    body = {
        "model": "m",
        "prompt": [1, 2, 3],
        "max_tokens": 64,
        "min_tokens": 8,
        "n": 2,
        "seed": 7,
        "temperature": 0.25,
        "stream_options": {"include_usage": True},
    }
    before = stack.proxy.counter("prefills", "disaggregated")
    answer = stack.proxy.client.post("/v1/completions", json=body)
    assert answer.status_code == 200
    assert answer.json()["served_by"] == "decode"
    assert asked_of_prefill(stack) == {
        "model": "m",
        "prompt": [1, 2, 3],
        "max_tokens": 1,
        "n": 1,
        "seed": 7,
        "temperature": 0.25,
        "stream": False,
        "kv_transfer_params": NULLS,
    }
    assert stack.decode.only.body == {**body, "kv_transfer_params": params}
    assert stack.proxy.counter("prefills", "disaggregated") == before + 1


def test_max_completion_tokens_becomes_one_where_given(stack: Stack) -> None:
    answer = stack.proxy.client.post(
        "/v1/chat/completions",
        json={"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 9},
    )
    assert answer.json()["served_by"] == "decode"
    assert stack.prefill.only.path == stack.decode.only.path == "/v1/chat/completions"
    assert stack.prefill.only.body["max_completion_tokens"] == 1
    assert stack.prefill.only.body["max_tokens"] == 1
    assert stack.decode.only.body["max_completion_tokens"] == 9
    assert "max_tokens" not in stack.decode.only.body


def test_parameters_are_copied_whole(stack: Stack) -> None:
    strange = {
        "unknown_key": {"deep": [[[], [None, True, {"x": []}]]], "": "empty key"},
        "remote_block_ids": [[2**53 + 1, 2**64 - 1, 2**70, -1], []],
        "float": [0.1, 1e300, -0.0, 5e-324, 1.0],
        "text": 'ü\u0000"\\/\u2028😀',
        "lone_surrogate": "\ud800",
        "kvdirect_lease": "1:00ff:3:9:1",
        "z": 1,
        "a": 2,
    }
    stack.prefill.reply = Reply(raw=json.dumps({"kv_transfer_params": strange}).encode())
    stack.proxy.complete()
    got = stack.decode.only.body["kv_transfer_params"]
    assert got == strange
    assert json.dumps(got) == json.dumps(strange)  # also the order of keys, 1 against 1.0, and the sign of zero


def test_parameters_sent_by_the_client_reach_no_instance(stack: Stack, params: dict[str, object]) -> None:
    forged = {"do_remote_prefill": True, "remote_host": "203.0.113.1", "remote_port": 1}
    stack.proxy.complete(kv_transfer_params=forged)
    assert asked_of_prefill(stack)["kv_transfer_params"] == NULLS
    assert stack.decode.only.body["kv_transfer_params"] == params
    stack.decode.seen.clear()
    stack.prefill.reply = Reply(status=500)
    stack.proxy.complete(kv_transfer_params=forged)
    assert "kv_transfer_params" not in stack.decode.only.body


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": ["one", "two"]},
        {"prompt": [[1, 2], [3]]},
        {"prompt_logprobs": 0},
        {"echo": True, "logprobs": 0},
        {"truncate_prompt_tokens": -1, "max_tokens": 5},
        {"max_tokens": 0},
    ],
)
def test_what_no_remote_cache_can_serve_goes_to_decode_alone(stack: Stack, body: dict[str, object]) -> None:
    before = stack.proxy.counter("prefills", "local_request")
    assert stack.proxy.complete(**body).status_code == 200
    assert stack.prefill.seen == []
    assert stack.decode.only.body == {"model": "m", "prompt": "hi", **body}
    assert stack.proxy.counter("prefills", "local_request") == before + 1


@pytest.mark.parametrize("prompt", [["one"], [[1, 2, 3]], [1, 2, 3], "one"])
def test_one_prompt_in_any_shape_is_prefilled_apart(stack: Stack, prompt: object) -> None:
    stack.proxy.complete(prompt=prompt)
    assert stack.prefill.only.body["prompt"] == prompt
    assert "kv_transfer_params" in stack.decode.only.body


def test_request_id_and_authorization_reach_both(stack: Stack) -> None:
    headers = {"X-Request-Id": "my-id/1", "Authorization": "Bearer key", "traceparent": "00-1-2-01", "X-Hop": "no"}
    answer = stack.proxy.client.post(
        "/v1/completions", json={"model": "m", "prompt": "p"}, headers={**headers, "Connection": "x-hop"}
    )
    assert answer.headers.get_list("x-request-id") == ["my-id/1"]
    for seen in (stack.prefill.only, stack.decode.only):
        assert seen.headers["x-request-id"] == "my-id/1"
        assert seen.headers["authorization"] == "Bearer key"
        assert seen.headers["traceparent"] == "00-1-2-01"
        assert "x-hop" not in seen.headers


def test_a_missing_request_id_is_made_once(stack: Stack) -> None:
    made = {stack.proxy.complete().headers["x-request-id"] for _ in range(2)}
    assert len(made) == 2
    assert {seen.headers["x-request-id"] for seen in stack.prefill.seen} == made
    assert [seen.headers["x-request-id"] for seen in stack.prefill.seen] == [
        seen.headers["x-request-id"] for seen in stack.decode.seen
    ]


def test_headers_of_decode_come_back_but_only_one_request_id(stack: Stack) -> None:
    stack.decode.reply = Reply(json={"a": 1}, headers={"x-extra": "yes", "x-request-id": "the-decode's-own"})
    answer = stack.proxy.complete()
    assert answer.headers["x-extra"] == "yes"
    assert answer.headers.get_list("x-request-id") == [stack.decode.only.headers["x-request-id"]]
    assert len(answer.headers.get_list("date")) == 1


def test_models_come_from_decode(stack: Stack) -> None:
    answer = stack.proxy.client.get("/v1/models", headers={"X-Request-Id": "m1", "Authorization": "Bearer k"})
    assert answer.json()["data"][0]["id"] == "model-of-decode"
    assert answer.headers["x-request-id"] == "m1"
    assert stack.decode.only.headers["authorization"] == "Bearer k"


def test_many_requests_at_once_keep_their_own_ids(stack: Stack) -> None:
    """More than the HTTP client's usual limit of connections, all held open at once."""
    count = 150
    stack.decode.reply = Reply(hold=True)

    async def ask() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(limits=limits, timeout=60, trust_env=False) as client:
            url = f"{stack.proxy.url}/v1/completions"
            tasks = [
                asyncio.create_task(client.post(url, json={"prompt": str(i)}, headers={"X-Request-Id": str(i)}))
                for i in range(count)
            ]
            async with asyncio.timeout(60):
                while len(stack.decode.seen) < count:  # noqa: ASYNC110 (it runs in another thread)
                    await asyncio.sleep(0.01)
            stack.decode.gate.set()
            return await asyncio.gather(*tasks)

    answers = asyncio.run(ask())
    assert [answer.headers["x-request-id"] for answer in answers] == [str(i) for i in range(count)]
    assert all(seen.body["prompt"] == seen.headers["x-request-id"] for seen in stack.decode.seen)
