# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Requests the router itself refuses."""

import socket

import pytest
from router_process import Stack


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"{", "truncated"),
        (b"", "truncated"),
        (b"[1]", "expected a JSON object: Expected `object`, got `array`"),
        (b'{"temperature": NaN}', "not JSON: JSON is malformed: invalid character (byte 16)"),
        (b'{"temperature": 01}', "invalid number"),
        (b'{"temperature": 1} {}', "trailing characters"),
        (b"\xff\xfe\xfd", "decode"),
        (b'{"prompt": "\xff"}', "decode"),
        (b'{"a": ' + b"[" * 50000, "nested too deeply"),
    ],
)
def test_what_is_not_a_json_object_is_a_400(stack: Stack, raw: bytes, words: str) -> None:
    answer = stack.proxy.client.post("/v1/completions", content=raw)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert words in error["message"]
    assert stack.prefill.seen == stack.decode.seen == []


@pytest.mark.parametrize("chunked", [False, True])
def test_an_oversize_body_is_a_413(stack: Stack, chunked: bool) -> None:
    raw = b'{"prompt": "' + b"x" * 3_000_000 + b'"}'
    content = iter([raw[i : i + 65536] for i in range(0, len(raw), 65536)]) if chunked else raw
    answer = stack.proxy.client.post("/v1/completions", content=content, headers={"X-Request-Id": "big"})
    assert answer.status_code == 413
    assert "larger than 100000 bytes" in answer.json()["error"]["message"]
    assert "--max-body-bytes" in answer.json()["error"]["message"]
    assert answer.headers["x-request-id"] == "big"
    assert stack.prefill.seen == stack.decode.seen == []


def test_a_body_at_the_limit_is_served(stack: Stack) -> None:
    frame = len(b'{"prompt":""}')
    raw = b'{"prompt":"' + b"x" * (100000 - frame) + b'"}'
    assert len(raw) == 100000
    assert stack.proxy.client.post("/v1/completions", content=raw).status_code == 200


def test_a_body_that_never_arrives_is_a_408(stack: Stack) -> None:
    host, port = stack.proxy.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        answer = sock.recv(65536)
    assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("bad", [b"", b"x" * 257, b"caf\xe9", b"a\tb"])
def test_a_request_id_that_cannot_be_passed_on_is_a_400(stack: Stack, bad: bytes) -> None:
    for method, path in (("POST", "/v1/completions"), ("GET", "/v1/models")):
        answer = stack.proxy.client.request(method, path, content=b"{}", headers=[(b"X-Request-Id", bad)])
        assert answer.status_code == 400
        assert "X-Request-Id" in answer.json()["error"]["message"]


def test_unknown_paths_and_methods_answer_in_openais_shape(stack: Stack) -> None:
    missing = stack.proxy.client.post("/v1/images", json={})
    assert missing.status_code == 404
    assert "/v1/images is not served here" in missing.json()["error"]["message"]
    wrong = stack.proxy.client.get("/v1/completions")
    assert wrong.status_code == 405
    assert wrong.json()["error"]["type"] == "invalid_request_error"
