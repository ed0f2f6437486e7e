# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Instances whose answers have no end, unpack to far more, or come in pieces that hide what they say."""

import gzip
from collections.abc import Sequence

import pytest
from played_backend import Backend, wait_until
from raw_http import HEALTHY, PlayedInstance, resident
from router_process import Proxy

MIB = 1 << 20
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
ABORT = b'data: {"choices":[{"text":"","finish_reason":"abort"}]}'
DONE = b"data: [DONE]"
TOKEN = b'data: {"choices":[{"text":"t"}]}'


def instance(parts: Sequence[bytes]) -> PlayedInstance:
    """It is healthy, and answers so."""
    return PlayedInstance(lambda path: HEALTHY if path == "/health" else parts)


def test_health_is_a_status_and_nothing_more_is_read() -> None:
    packed = gzip.compress(b"\0" * (200 * MIB), 9)
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(packed)
    endless = [b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", *[b"x" * MIB] * 400]
    with (
        PlayedInstance(lambda _: [head + packed]) as bomb,
        PlayedInstance(lambda _: endless) as without_end,
        Proxy([bomb.url], [without_end.url]) as proxy,
    ):
        before = resident(proxy.process.pid)
        wait_until(lambda: len(bomb.heads) > 5 and len(without_end.heads) > 5, "several checks")
        assert proxy.instances("prefill")[0]["healthy"]
        assert proxy.instances("decode")[0]["healthy"]
        assert resident(proxy.process.pid) - before < 16 * MIB
        assert b"accept-encoding: identity" in bomb.heads[0].lower()


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n", EVENTS],
    ids=["answer", "event"],
)
def test_an_answer_without_end_is_a_broken_instance(head: bytes) -> None:
    endless = [head, *[b"x" * 65536] * 400]
    options = ("--max-answer-bytes", str(MIB), "--retries", "0")
    with (
        Backend("prefill") as prefill,
        instance(endless) as decode,
        Proxy([prefill.url], [decode.url], *options) as proxy,
    ):
        before = resident(proxy.process.pid)
        answer = proxy.complete()
        assert answer.status_code == 502
        assert "--max-answer-bytes" in answer.json()["error"]["message"]
        assert resident(proxy.process.pid) - before < 16 * MIB


def test_a_status_that_is_none_of_https_is_a_502() -> None:
    odd = [b"HTTP/1.1 999 Odd\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"]
    with (
        Backend("prefill") as prefill,
        instance(odd) as decode,
        Proxy([prefill.url], [decode.url], "--retries", "0") as proxy,
    ):
        answer = proxy.complete()
        assert answer.status_code == 502
        assert "status 999" in answer.json()["error"]["message"]


def cuts(event: bytes) -> list[list[bytes]]:
    """An event in two reads, cut at each of these places."""
    size = len(event)
    return [[event[:at], event[at:]] for at in (1, 20, size // 2, size - 20, size - 3, size - 1)]


@pytest.mark.parametrize("more", [b"", b": ping\nevent: chunk\nid: 1\n"], ids=["data", "more lines"])
@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n"], ids=["LF", "CRLF", "CR", "LF and CRLF"])
def test_an_abort_is_seen_however_it_comes(end: bytes, more: bytes) -> None:
    parts: list[bytes] = []
    rest = TOKEN + end + DONE + end
    with (
        Backend("prefill") as prefill,
        instance(parts) as decode,
        Proxy([prefill.url], [decode.url], "--retries", "0") as proxy,
    ):
        for cut in cuts(more + ABORT + end):
            for begin, status in (([EVENTS], 502), ([EVENTS, TOKEN + end], 200)):
                parts[:] = [*begin, *cut, rest]
                answer = proxy.complete(stream=True)
                assert b"abort" not in answer.content.split(b"is being stopped")[0]
                assert b"[DONE]" not in answer.content
                assert b'"error"' in answer.content
                assert answer.status_code == status
        assert proxy.outcomes() == {"failed": 12}


def test_a_split_error_counts_as_one() -> None:
    """In a stream that has begun it is passed on, and the request has failed."""
    parts: list[bytes] = []
    error = b'event: error\ndata: {"error": {"message": "\xc3\xbc", "code": 500}}\n\n'
    with Backend("prefill") as prefill, instance(parts) as decode, Proxy([prefill.url], [decode.url]) as proxy:
        for cut in cuts(error):
            parts[:] = [EVENTS, TOKEN + b"\n\n", *cut]
            assert proxy.complete(stream=True).content.endswith(error)
        assert proxy.outcomes() == {"failed": 6}


def test_events_pass_as_they_were_sent_in_whatever_pieces() -> None:
    stream = b"\r\n\r\n".join([TOKEN, b": a comment", 'data: {"text": "ü😀"}'.encode(), DONE]) + b"\n\ndata: unfinished"
    parts = [EVENTS, *[stream[at : at + 7] for at in range(0, len(stream), 7)]]
    with Backend("prefill") as prefill, instance(parts) as decode, Proxy([prefill.url], [decode.url]) as proxy:
        got = proxy.complete(stream=True).content
        assert got == stream
