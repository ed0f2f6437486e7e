# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Every API that can be prefilled apart, through the router: the answer of one engine alone, and bytes were pulled."""

from __future__ import annotations

import json
from typing import Any

import pytest
from engines import AGGREGATED, DECODE, MODEL_NAME, PREFILL, TOKENS_IN, Engine, name, only_pull, text

from kvdirect.harness.http_client import event_data, http

pytestmark = [pytest.mark.vllm, pytest.mark.engines(AGGREGATED, PREFILL, DECODE)]

Json = dict[str, Any]


def responses(prompt: str) -> Json:
    return {"input": prompt, "max_output_tokens": 12, "ignore_eos": True}


def messages(prompt: str) -> Json:
    return {"messages": [{"role": "user", "content": prompt}], "max_tokens": 12}


def generate(prompt: str) -> Json:
    params = {"max_tokens": 12, "temperature": 0, "ignore_eos": True}
    return {"token_ids": [40 + ord(letter) % 80 for letter in prompt], "sampling_params": params}


def chat(prompt: str) -> Json:
    return {"messages": [{"role": "user", "content": prompt}], "max_completion_tokens": 12, "ignore_eos": True}


APIS = {
    "/v1/responses": responses,
    "/v1/messages": messages,
    "/inference/v1/generate": generate,
    "/v1/chat/completions": chat,
}


def ask(url: str, path: str, body: Json, request_id: str) -> list[Json]:
    """The answer, or the events of a stream."""
    headers = {"X-Request-Id": request_id}
    if not body.get("stream"):
        answer = http().post(url + path, json=body, headers=headers, timeout=120.0)
        assert answer.status_code == 200, answer.text
        return [answer.json()]
    with http().stream("POST", url + path, json=body, headers=headers, timeout=120.0) as answer:
        assert answer.status_code == 200, answer.read()
        return [json.loads(data) for data in event_data(answer)]


def said(path: str, answers: list[Json]) -> object:
    """The text, or the tokens, that an answer or its stream has."""
    last = answers[-1]
    if path == "/v1/responses":
        response = last.get("response", last)
        assert response["status"] == "incomplete"  # the length that was asked for
        return [part["text"] for item in response["output"] for part in item["content"]]
    if path == "/v1/messages":
        whole = last.get("content")
        return whole[0]["text"] if whole else "".join(each.get("delta", {}).get("text") or "" for each in answers)
    choices = [choice for each in answers for choice in each["choices"]]
    if path == "/v1/chat/completions":
        return "".join((choice.get("message") or choice["delta"]).get("content") or "" for choice in choices)
    return [token for choice in choices for token in choice["token_ids"]]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("path", APIS)
def test_each_api_answers_as_one_engine_does(
    aggregated: Engine, reader: Engine, routed: str, path: str, streamed: bool
) -> None:
    if path == "/inference/v1/generate" and not TOKENS_IN:
        pytest.skip("this vLLM has no tokens in")
    request_id = name("api")
    body = {"model": MODEL_NAME, "temperature": 0, "stream": streamed, **APIS[path](text(200))}
    expected = said(path, ask(aggregated.url, path, body, name("reference")))
    assert expected
    assert said(path, ask(routed, path, body, request_id)) == expected
    # vLLM makes ids of Responses itself: there the last pull is ours.
    record = reader.pulls()[-1] if path == "/v1/responses" else only_pull(reader, request_id)
    assert record["status"] == "ok"
    assert record["bytes"] > 0
    counts = http().get(f"{routed}/status").json()["counters"]["prefills"]
    assert {outcome: number for outcome, number in counts.items() if number} == {"disaggregated": 1}
