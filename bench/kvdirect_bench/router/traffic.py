# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the client asks and the fake engines answer: each answer's bytes follow from the request's tag."""

from __future__ import annotations

import re
from functools import cache

TICKET = "kv_transfer_params"
_PROMPT = re.compile(rb'"prompt"\s*:\s*"(\d+) ')
_LEASE = re.compile(rb'"remote_request_id"\s*:\s*"(\d+)"')
_FILLER = "a prompt of some length, as they are " * 27  # about 1 KiB
# As long as vLLM's own.
_EVENT = (
    '{"id":"cmpl-%TAG%","object":"text_completion","created":1795000000,"model":"m","choices":[{"index":0,"text":'
    '" word %d","logprobs":null,"finish_reason":null,"stop_reason":null}],"usage":null}'
)


def request(tag: int, *, streamed: bool) -> bytes:
    """A client's request, head and body."""
    stream = "true" if streamed else "false"
    body = f'{{"model":"m","prompt":"{tag} {_FILLER}","max_tokens":64,"stream":{stream}}}'.encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nhost: router\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    )
    return (head % len(body)).encode() + body


def tag_of(body: bytes) -> bytes:
    """The tag in a request's prompt."""
    found = _PROMPT.search(body)
    return found[1] if found else b""


def lease_of(body: bytes) -> bytes:
    """The tag in the ticket that a decode engine is given."""
    found = _LEASE.search(body)
    return found[1] if found else b""


def ticket_answer(tag: bytes) -> bytes:
    """What a prefill engine answers."""
    return (
        b'{"id":"cmpl-1","object":"text_completion","choices":[{"index":0,"text":" a","finish_reason":"length"}],'
        b'"kv_transfer_params":{"do_remote_prefill":true,"do_remote_decode":false,"remote_engine_id":"fake",'
        b'"remote_block_ids":[1,2,3,4],"remote_host":"127.0.0.1","remote_port":1,"remote_request_id":"%b"}}'
    ) % tag


def plain_answer(tag: bytes) -> bytes:
    """What a decode engine answers to a request that is not streamed."""
    return b'{"id":"cmpl-%b","object":"text_completion","choices":[{"index":0,"text":"the words of %b"}]}' % (tag, tag)


def event(tag: bytes, number: int) -> bytes:
    """One event of a stream."""
    return b"data: %b\n\n" % _event(number).replace(b"%TAG%", tag)


def whole_stream(tag: bytes, events: int) -> bytes:
    """A stream's bytes."""
    return _stream(events).replace(b"%TAG%", tag)


LAST = b"data: [DONE]\n\n"


@cache
def _event(number: int) -> bytes:
    return _EVENT.replace("%d", str(number)).encode()


@cache
def _stream(events: int) -> bytes:
    return b"".join(b"data: %b\n\n" % _event(number) for number in range(events - 1)) + LAST
