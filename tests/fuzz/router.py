# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The router's port and its side towards instances: bodies, headers, and event streams."""

from __future__ import annotations

import json
from typing import Any

from kvdirect.router.apis import COHERE, GENERATE, MESSAGES, RESPONSES
from kvdirect.router.bodies import RequestBody, forwarded_headers, parse_object, returned_headers, take_request_id
from kvdirect.router.events import EventCutter, EventsTooLongError, aborted_at, says_error

from .pieces import Input, cut

_TICKET = "kv_transfer_params"
_HOPS = (b"connection", b"transfer-encoding", b"content-length", b"host", b"x-forwarded-for", b"keep-alive", b"upgrade")
_EVENT_LIMIT = 1 << 12

_CLAIM = "c" * 32


def _plain(raw: bytes) -> Any:  # noqa: ANN401
    """What Python reads in it; None where Python is more particular than JSON is."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def bodies(data: bytes) -> None:
    """A request's members reach both instances as they were sent, but for the few that are meant to differ."""
    _other_forms(data)
    try:
        body = RequestBody(data)
    except ValueError:
        return
    prefill, decode = body.for_prefill(_CLAIM), body.for_decode(None)
    ticketed = body.for_decode(b'{"ours":1}')
    meant, got, asked = _plain(data), _plain(decode), _plain(prefill)
    if meant is None or got is None:
        return
    meant.pop(_TICKET, None)
    if isinstance(extra := meant.get("vllm_xargs"), dict):
        extra.pop(_TICKET, None)
    assert repr(got) == repr(meant)
    assert _plain(ticketed)[_TICKET] == {"ours": 1}
    assert asked is None or (asked[_TICKET]["do_remote_decode"] is True and asked["max_tokens"] == 1)


def _other_forms(data: bytes) -> None:
    """Of each API's requests, those that are prefilled apart ask for one token and a cache."""
    for api in (RESPONSES, MESSAGES, GENERATE, COHERE):
        try:
            body = RequestBody(data, api.form)
        except ValueError:
            continue
        asked = _plain(body.for_prefill(_CLAIM)) if body.skips_prefill is None else None
        if asked is not None:
            holder = asked[api.form.within] if api.form.within else asked
            assert (asked[_TICKET]["do_remote_decode"], holder[api.form.to_one[0]]) == (True, 1)
            assert asked["stream"] is False
        got = _plain(body.for_decode(None))
        assert got is None or _TICKET not in got


def objects(data: bytes) -> None:
    """An answer of an instance is an object, or a ValueError."""
    try:
        assert isinstance(parse_object(data), dict)
    except ValueError:
        return


def headers(data: bytes) -> None:
    """No header of a connection's own, and none that an instance could believe, is passed on."""
    pairs = [(name.strip(), value.strip()) for name, _, value in (line.partition(b":") for line in data.split(b"\n"))]
    try:
        request_id = take_request_id(pairs)
    except ValueError:
        return
    kept = forwarded_headers(pairs, request_id)
    named = [name for name, _ in kept]
    assert not set(named) & set(_HOPS)
    assert named.count(b"x-request-id") == 1
    assert not {name.lower() for name, _ in returned_headers(pairs, request_id)[:-1]} & {b"transfer-encoding", b"te"}


def _events(data: bytes, sizes: bytes) -> tuple[bytes, bool, bool]:
    """All that comes out, and whether an abort or an error is seen in it."""
    cutter = EventCutter(_EVENT_LIMIT)
    parts = [cutter.feed(part) for part in cut(data, sizes)]
    assert all(not part or part.endswith((b"\n\n", b"\n\r\n", b"\r\r")) for part in parts)
    parts.append(cutter.end())
    aborted = any(aborted_at(part, streamed=True) >= 0 for part in parts)
    return b"".join(parts), aborted, any(says_error(200, part, streamed=True) for part in parts)


def events(data: bytes) -> None:
    """However reads fall, everything comes out, and the same is seen in it."""
    parts = Input(data)
    sizes = parts.take(parts.below(6))
    stream = parts.rest()[:_EVENT_LIMIT]
    try:
        whole, cut_up = _events(stream, b""), _events(stream, sizes)
    except EventsTooLongError:
        raise AssertionError("nothing here is longer than may be") from None
    assert whole[0] == cut_up[0] == stream
    assert whole == cut_up
    aborted_at(stream, streamed=False)
    says_error(200, stream, streamed=False)
