# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Each API: what its two instances are asked, how its streams begin and fail, and what goes to decode as it is."""

import itertools
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from played_backend import Backend, Reply, wait_until
from router_process import Proxy, Stack
from test_flow import NULLS, asked_of_prefill

from kvdirect.router.apis import ENDPOINTS, Who

FORGED = {"do_remote_prefill": True, "remote_host": "203.0.113.1", "remote_port": 1}
USER = [{"role": "user", "content": "hi"}]
# Path, what the client asks, and what differs in what prefill is asked.
APART: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "/v1/responses",
        {"input": "hi", "max_output_tokens": 9, "store": True, "stream": False, "tools": [{"type": "function"}]},
        {"max_output_tokens": 1, "store": False},
    ),
    ("/v1/responses", {"input": "hi"}, {"max_output_tokens": 1, "store": False, "stream": False}),
    (
        "/v1/messages",
        {"messages": USER, "max_tokens": 9, "system": "be brief", "thinking": {"type": "enabled", "budget_tokens": 5}},
        {"max_tokens": 1, "stream": False},
    ),
    (
        "/inference/v1/generate",
        {"token_ids": [1, 2], "sampling_params": {"max_tokens": 9, "min_tokens": 3, "n": 2, "seed": 7}},
        {"sampling_params": {"max_tokens": 1, "n": 1, "seed": 7}, "stream": False},
    ),
    (
        "/inference/v1/generate",
        {"token_ids": [1, 2], "sampling_params": {}, "stream_options": {"include_usage": True}},
        {"sampling_params": {"max_tokens": 1}, "stream": False, "stream_options": None},
    ),
    ("/cohere/v2/chat", {"messages": USER, "max_tokens": 9, "k": 3}, {"max_tokens": 1, "stream": False}),
]


@pytest.mark.parametrize(("path", "asked", "differs"), APART)
def test_prefill_is_asked_for_one_token_and_decode_for_what_the_client_asked(
    stack: Stack, params: dict[str, object], path: str, asked: dict[str, Any], differs: dict[str, Any]
) -> None:
    body = {"model": "m", **asked}
    before = stack.proxy.counter("prefills", "disaggregated")
    answer = stack.proxy.client.post(path, json={**body, "kv_transfer_params": FORGED})
    assert answer.json()["served_by"] == "decode"
    assert stack.prefill.only.path == stack.decode.only.path == path
    expected = {**body, **differs, "kv_transfer_params": NULLS}
    assert asked_of_prefill(stack) == {key: value for key, value in expected.items() if value is not None}
    assert stack.decode.only.body == {**body, "kv_transfer_params": params}
    assert stack.proxy.counter("prefills", "disaggregated") == before + 1


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/responses", {"input": "hi", "background": True}),
        ("/v1/responses", {"input": "hi", "previous_response_id": "resp_1"}),
        ("/v1/responses", {"input": "hi", "truncation": "auto"}),
        ("/v1/responses", {"input": "hi", "tools": [{"type": "function"}, {"type": "web_search_preview"}]}),
        ("/v1/messages", {"messages": USER}),
        ("/inference/v1/generate", {"token_ids": [1]}),
        ("/inference/v1/generate", {"token_ids": [1], "sampling_params": {"prompt_logprobs": 1}}),
        ("/v1/chat/completions/batch", {"messages": [USER, USER]}),
        ("/v1/systemone", {"questions": []}),
        ("/generative_scoring", {"query": "q", "items": ["a"]}),
    ],
)
def test_what_no_remote_cache_can_serve_goes_to_decode_alone(stack: Stack, path: str, asked: dict[str, Any]) -> None:
    before = stack.proxy.counter("prefills", "local_request")
    assert stack.proxy.client.post(path, json={**asked, "kv_transfer_params": FORGED}).status_code == 200
    assert stack.prefill.seen == []
    assert stack.decode.only.body == asked
    assert stack.proxy.counter("prefills", "local_request") == before + 1


@pytest.mark.parametrize(
    "path", [path for path, endpoint in ENDPOINTS.items() if endpoint.who in {Who.BOTH, Who.DECODE}]
)
def test_transfer_parameters_of_a_client_reach_no_engine_that_generates(stack: Stack, path: str) -> None:
    forged = {"kv_transfer_params": FORGED, "ec_transfer_params": FORGED}
    hidden = {"extra_args": {**forged, "mine": 1}, "max_tokens": 5}
    asked = {**forged, "vllm_xargs": forged, "max_tokens": 5}
    if path == "/inference/v1/generate":
        stack.prefill.reply = Reply(status=500)  # decode computes the prompt, and nothing overwrites what is hidden
        asked["sampling_params"] = hidden
    raw = json.dumps(asked).replace("_transfer_", "\\u005ftransfer_")
    stack.proxy.client.post(path, content=raw)
    for seen in stack.prefill.seen + stack.decode.seen:
        assert b"203.0.113.1" not in seen.raw, path
        if path == "/inference/v1/generate":
            assert seen.body["sampling_params"]["extra_args"] == {"mine": 1}


def form(*, name: str = '"{}"', **fields: str) -> bytes:
    """A form with the boundary `b`."""
    head = "--b\r\ncontent-disposition: form-data; name={}\r\n\r\n"
    parts = [head.format(name.format(key)) + value + "\r\n" for key, value in fields.items()]
    return ("".join(parts) + "--b--\r\n").encode()


@pytest.mark.parametrize("path", [path for path, endpoint in ENDPOINTS.items() if endpoint.takes_forms])
@pytest.mark.parametrize("params", ["kv_transfer_params", "ec_transfer_params", "kv\\u005ftransfer_params"])
@pytest.mark.parametrize("how", ["plain", "unquoted", "not a number", "twice", "lone surrogate"])
def test_transfer_parameters_in_a_form_are_refused(stack: Stack, path: str, params: str, how: str) -> None:
    """Engines make no difference between these."""
    more = {"not a number": ', "x": NaN', "lone surrogate": ', "x": "\\ud800"'}.get(how, "")
    given = '{"' + params + '": "http://203.0.113.1"' + more + "}"
    raw = form(name="{}" if how == "unquoted" else '"{}"', prompt="p", vllm_xargs=given)
    if how == "twice":
        raw = form(vllm_xargs=given).removesuffix(b"--b--\r\n") + form(vllm_xargs="{}")
    answer = stack.proxy.client.post(path, content=raw, headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 400
    assert "vllm_xargs" in answer.json()["error"]["message"]
    assert stack.decode.seen == []


@pytest.mark.parametrize("raw", [b"--b\r\n\x00: 1\r\n", b"--b\r\ncontent-disposition: form-data\r\n\r\n1\r\n--b--\r\n"])
def test_a_form_that_engines_cannot_read_is_refused(stack: Stack, raw: bytes) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = stack.proxy.client.post("/v1/audio/transcriptions", content=raw, headers=headers)
    assert answer.status_code == 400
    assert "the form cannot be read" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", [path for path, endpoint in ENDPOINTS.items() if endpoint.who is Who.PASSED])
def test_what_is_passed_on_reaches_decode_as_it_was_sent(stack: Stack, path: str) -> None:
    before = stack.proxy.state()["counters"]["prefills"]
    stack.decode.reply = Reply(raw=b"\x00whole", media="application/x-anything", status=418)
    method = ENDPOINTS[path].method
    raw = b"" if method == "GET" else form(prompt='\x00{ "a" :1}', vllm_xargs='{"mine": 1 }')
    headers = {"content-type": 'multipart/form-data; boundary="b"', "x-request-id": "r1"}
    answer = stack.proxy.client.request(method, path, content=raw, headers=headers)
    assert (answer.status_code, answer.content) == (418, b"\x00whole")
    assert answer.headers["content-type"] == "application/x-anything"
    assert (stack.decode.only.path, stack.decode.only.raw) == (path, raw)
    assert stack.decode.only.headers["content-type"] == headers["content-type"]
    assert stack.prefill.seen == []
    assert stack.proxy.state()["counters"]["prefills"] == before


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/inference/v1/generate", "/cohere/v2/chat"])
@pytest.mark.parametrize("odd", [[], {}, [{"type": []}], "x", 1e300, {"a": [None]}])
def test_odd_members_are_the_engines_to_refuse(stack: Stack, path: str, odd: object) -> None:
    names = (
        "truncation",
        "max_tokens",
        "max_output_tokens",
        "background",
        "tools",
        "sampling_params",
        "vllm_xargs",
        "model",
    )
    body = dict.fromkeys(names, odd)
    assert stack.proxy.client.post(path, json=body).status_code == 200
    assert stack.decode.only.body | {"kv_transfer_params": None} == body | {"kv_transfer_params": None}


def test_a_passed_answer_is_streamed(stack: Stack) -> None:
    stack.decode.reply = Reply(hold=True)
    url = f"{stack.proxy.url}/v1/audio/transcriptions"
    with stack.proxy.client.stream("POST", url, content=b'{"stream": true}') as answer:
        chunks = answer.iter_raw()
        assert b"first" in next(chunks)
        stack.decode.gate.set()
        assert b"[DONE]" in b"".join(chunks)


@pytest.mark.parametrize("path", ["/sleep", "/abort_requests", "/inference/v1/abort_requests", "/v1", "/v1/responses/"])
def test_what_controls_an_engine_is_not_served(stack: Stack, path: str) -> None:
    answer = stack.proxy.client.post(path, json={})
    assert answer.status_code == 404
    assert "/v1/responses, " in answer.json()["error"]["message"]
    assert stack.decode.seen == stack.prefill.seen == []


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("/v1/responses/resp_1", "stream=true&starting_after=3", 200),
        ("/v1/responses/resp_1", "stream=%0d", 400),
        ("/v1/responses/..%2f..%2fsleep", "", 404),
        ("/v1/responses/a%3fb", "", 404),
        ("/v1/responses/{response_id}", "", 404),
    ],
)
def test_a_stored_response_is_asked_of_the_one_decode_instance(
    stack: Stack, path: str, query: str, status: int
) -> None:
    answer = stack.proxy.client.get(f"{path}?{query}")
    assert answer.status_code == status
    assert [(seen.path, seen.query) for seen in stack.decode.seen] == ([(path, query)] if status == 200 else [])


def test_each_api_has_its_label_in_the_metrics(stack: Stack) -> None:
    stack.proxy.client.post("/v1/messages", json={"messages": USER, "max_tokens": 1})
    stack.proxy.client.post("/tokenize", json={"prompt": "p"})
    stack.proxy.wait_idle()
    text = stack.proxy.client.get("/metrics").text
    for label in ("messages", "other", "responses", "generate"):
        assert f'kvdirect_router_request_seconds_count{{endpoint="{label}"}}' in text


# Streams of each API: how one begins, and what it looks like when it is broken off behind that.
def event(kind: str, **members: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n".encode()


CREATED = event("response.created", sequence_number=0, response={"id": "resp_1", "status": "in_progress"})
CREATED += event("response.in_progress", sequence_number=1, response={"id": "resp_1", "status": "in_progress"})
DELTA = event("response.output_text.delta", sequence_number=7, delta="hel")
START = event("message_start", message={"id": "msg_1", "stop_reason": None})
NO_REASON = event("message_delta", delta={"stop_reason": None, "stop_sequence": None})
ABORTED_TOKENS = b'data: {"choices": [{"token_ids": [], "finish_reason": "abort"}]}\n\ndata: [DONE]\n\n'
CANCELLED = event("response.completed", response={"status": "cancelled"})
BODIES: dict[str, dict[str, Any]] = {
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": USER, "max_tokens": 5},
    "/inference/v1/generate": {"token_ids": [1], "sampling_params": {}},
    "/cohere/v2/chat": {"messages": USER},
}


@pytest.fixture
def pair() -> Iterator[tuple[Proxy, Backend, Backend]]:
    """A proxy with two decode instances, of which the first is asked first."""
    tickets = itertools.count(1)
    with (
        Backend("prefill") as prefill,
        Backend("first") as first,
        Backend("second") as second,
        Proxy([prefill.url], [first.url, second.url], "--health-interval", "0.5") as proxy,
    ):
        prefill.reply = Reply(params=lambda: {"ticket": next(tickets)})
        yield proxy, first, second


def ask(proxy: Proxy, path: str, **more: object) -> httpx.Response:
    return proxy.client.post(path, json={**BODIES[path], **more})


def events(raw: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Names and objects of the whole events."""
    found = []
    for part in raw.split(b"\n\n"):
        if b"data: {" in part:
            name, _, data = part.decode().partition("data: ")
            if data.endswith("}"):
                found.append((name.removeprefix("event: ").strip(), json.loads(data)))
    return found


@pytest.mark.parametrize(
    ("path", "first"),
    [
        ("/v1/responses", CREATED + DELTA),
        ("/v1/messages", START),
        ("/inference/v1/generate", b""),
        ("/cohere/v2/chat", b""),
    ],
)
def test_an_error_in_a_begun_stream_has_the_form_of_its_api(
    pair: tuple[Proxy, Backend, Backend], path: str, first: bytes
) -> None:
    proxy, one, two = pair
    one.reply = Reply(break_off=True, **({"first": first} if first else {}))
    answer = ask(proxy, path, stream=True)
    name, last = events(answer.content)[-1]
    assert two.seen == []
    assert b"[DONE]" not in answer.content
    if path == "/v1/responses":
        assert name == last["type"] == "response.failed"
        assert last["sequence_number"] == 8
        assert (last["response"]["id"], last["response"]["status"]) == ("resp_1", "failed")
        assert last["response"]["error"]["code"] == "server_error"
        text = last["response"]["error"]["message"]
    elif path == "/v1/messages":
        assert name == last["type"] == "error"
        assert last["error"]["type"] == "api_error"
        text = last["error"]["message"]
    elif path == "/cohere/v2/chat":
        assert (last["type"], last["delta"]["finish_reason"]) == ("message-end", "ERROR")
        text = last["delta"]["error"]
    else:
        assert last["error"]["code"] == 502
        text = last["error"]["message"]
    assert "broke off" in text
    proxy.wait_idle()
    assert proxy.outcomes() == {"failed": 1}


def test_a_response_is_retried_as_long_as_nothing_of_it_was_computed(pair: tuple[Proxy, Backend, Backend]) -> None:
    """vLLM sends the first two events before the engine has the request."""
    proxy, one, two = pair
    one.reply = Reply(first=CREATED, break_off=True)
    two.reply = Reply(first=CREATED, last=DELTA)
    answer = ask(proxy, "/v1/responses", stream=True)
    assert [kind for kind, _ in events(answer.content)] == [
        "response.created",
        "response.in_progress",
        "response.output_text.delta",
    ]
    assert two.only.body["kv_transfer_params"] == {"ticket": 2}


def test_a_cache_counts_as_kept_until_a_response_shows_that_it_was_read(stack: Stack) -> None:
    stack.decode.reply = Reply(first=CREATED, hold=True, last=DELTA)
    url = f"{stack.proxy.url}/v1/responses"
    asking = threading.Thread(target=lambda: httpx.post(url, json={"input": "hi", "stream": True}, trust_env=False))
    asking.start()
    wait_until(lambda: len(stack.decode.seen) == 1, "decode to be asked")
    assert [item["caches"] for item in stack.proxy.instances("prefill")] == [1]
    stack.decode.gate.set()
    asking.join(10)
    stack.proxy.wait_idle()


@pytest.mark.parametrize(
    ("path", "streamed", "reply"),
    [
        ("/v1/messages", True, Reply(events=NO_REASON)),
        ("/v1/messages", False, Reply(json={"type": "message", "content": [{"type": "text", "text": "hal"}]})),
        ("/inference/v1/generate", True, Reply(events=ABORTED_TOKENS)),
        ("/inference/v1/generate", False, Reply(json={"choices": [{"finish_reason": "abort"}]})),
        ("/v1/responses", True, Reply(events=CREATED + CANCELLED)),
        ("/v1/responses", False, Reply(json={"object": "response", "status": "cancelled"})),
    ],
)
def test_what_an_engine_gave_up_is_retried(
    pair: tuple[Proxy, Backend, Backend], path: str, streamed: bool, reply: Reply
) -> None:
    proxy, one, two = pair
    one.reply = reply
    assert ask(proxy, path, stream=streamed).status_code == 200
    assert len(two.seen) == 1
    assert proxy.state()["counters"]["retries"]["broken"] == 1


def test_errors_of_the_router_have_the_form_of_the_api(pair: tuple[Proxy, Backend, Backend]) -> None:
    proxy, _, _ = pair
    answer = proxy.client.post("/v1/messages", content=b"no json")
    assert answer.status_code == 400
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert proxy.client.post("/cohere/v2/chat", content=b"no json").json().keys() == {"message"}
    assert proxy.client.get("/v1/messages").json()["type"] == "error"


def test_stored_responses_need_one_decode_instance(pair: tuple[Proxy, Backend, Backend]) -> None:
    proxy, one, two = pair
    answers = [ask(proxy, "/v1/responses", previous_response_id="resp_1"), proxy.client.get("/v1/responses/resp_1")]
    for answer in answers:
        assert answer.status_code == 400
        assert "2 decode instances" in answer.json()["error"]["message"]
    assert one.seen == two.seen == []


@pytest.mark.parametrize("path", ["/v1/responses/a%0d%0a%0d%0ab", "/v1/responses/a%0a", "/v1/responses/a%09b"])
def test_a_path_with_line_ends_in_it_is_no_path(stack: Stack, path: str) -> None:
    answer = stack.proxy.client.get(path)
    assert answer.status_code == 404
    assert stack.decode.seen == []
