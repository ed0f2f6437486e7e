# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Event streams, and clients that leave."""

import socket

from played_backend import Reply, wait_until
from router_process import Stack

FIRST = b'data: {"choices":[{"text":"first"}]}\n\n'
LAST = b'data: {"choices":[{"text":"last"}]}\n\ndata: [DONE]\n\n'


def test_chunks_arrive_before_the_backend_has_finished(stack: Stack) -> None:
    stack.decode.reply = Reply(hold=True)
    with stack.stream() as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-request-id"]
        chunks = answer.iter_raw()
        assert next(chunks) == FIRST  # the backend waits for the gate: this came while it was not done
        stack.decode.gate.set()
        assert b"".join(chunks) == LAST
    assert stack.prefill.only.body["stream"] is False
    assert stack.decode.only.body["stream"] is True


def test_a_client_that_leaves_a_stream_cancels_decode(stack: Stack) -> None:
    before = stack.proxy.counter("requests", "client_gone")
    stack.decode.reply = Reply(hold=True)
    with stack.stream() as answer:
        next(answer.iter_raw())
    assert stack.decode.cancelled.wait(10)
    wait_until(lambda: stack.proxy.counter("requests", "client_gone") == before + 1, "the counter")


def test_a_client_that_leaves_an_unstreamed_request_cancels_decode(stack: Stack) -> None:
    stack.decode.reply = Reply(hold=True)
    _leave_once(stack, lambda: len(stack.decode.seen) == 1)
    assert stack.decode.cancelled.wait(10)


def test_a_client_that_leaves_during_prefill_cancels_it_and_decode_is_never_asked(stack: Stack) -> None:
    before = stack.proxy.counter("requests", "client_gone")
    stack.prefill.reply = Reply(hold=True)
    _leave_once(stack, lambda: len(stack.prefill.seen) == 1)
    assert stack.prefill.cancelled.wait(10)
    wait_until(lambda: stack.proxy.counter("requests", "client_gone") == before + 1, "the counter")
    assert stack.decode.seen == []


def test_a_stream_that_breaks_ends_with_an_error_event(stack: Stack) -> None:
    stack.decode.reply = Reply(break_off=True)
    with stack.stream() as answer:
        text = b"".join(answer.iter_raw()).decode()
    assert text.startswith(FIRST.decode())
    assert "[DONE]" not in text
    last = text.rstrip().rsplit("\n\n", 1)[-1]
    assert last.startswith('data: {"error":')
    assert f"decode instance {stack.decode.url} broke off" in last


def _leave_once(stack: Stack, condition: object) -> None:
    """Send a request and close the connection, without reading, once `condition()` holds."""
    assert callable(condition)
    body = b'{"model": "m", "prompt": "p"}'
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    host, port = stack.proxy.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(head + body)
        wait_until(condition, "the request to be where it is cancelled")
