# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Event streams: where events end, and what an instance says in one.

An event ends with an empty line; lines end with LF, CRLF or CR (WHATWG HTML, server-sent events). Its data is in the
lines that begin with `data:`; others name it, or are comments that keep a connection alive.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n")
_DATA = b"data:"
_END = re.compile(b"|".join(_ENDS))


class EventsTooLongError(ValueError):
    """An event is longer than it may be."""


class EventCutter:
    """Puts parts of a stream together so that each holds whole events, however reads fell."""

    def __init__(self, limit: int) -> None:
        """Nothing has come yet; an unfinished event may have `limit` bytes."""
        self._limit = limit
        self._rest = bytearray()

    def feed(self, part: bytes) -> bytes:
        """The events that are whole with this part, or nothing.

        Raises:
            EventsTooLongError: The unfinished one is longer than `limit`.
        """
        if not self._rest and part.endswith(b"\n\n"):
            return part
        begin = max(0, len(self._rest) - 3)  # an end may have begun in what was there already
        self._rest += part
        ends = [at + len(mark) for mark in _ENDS if (at := self._rest.rfind(mark, begin)) >= 0]
        if not ends and len(self._rest) > self._limit:
            raise EventsTooLongError(f"an event of more than {self._limit} bytes")
        whole = bytes(self._rest[: max(ends, default=0)])
        del self._rest[: len(whole)]
        return whole

    def end(self) -> bytes:
        """What was left when the stream ended."""
        rest, self._rest = bytes(self._rest), bytearray()
        return rest


def says_error(status: int, body: bytes, *, streamed: bool) -> bool:
    """Whether an answer is a failure of the instance, with which another may succeed.

    Args:
        status: Of the answer.
        body: All of it; of a stream, some of its events.
        streamed: Whether it is an event stream: there a failure has status 200 and is told in an event.
    """
    if status >= 500:
        return True
    if not streamed or b'"error"' not in body:
        return False
    return any(_is_server_error(event.get("error")) for _, event in events_of(body))


def aborted_at(body: bytes, *, streamed: bool) -> int:
    """Where an engine that is being stopped gave a request up, or -1.

    vLLM answers the requests that it aborts then 200, with what they have so far and finish_reason `abort`. The client
    is still there, so nobody else can have asked for that.

    Returns:
        The offset of the event that says so; 0 for an answer that is not streamed.
    """
    if b'"abort"' not in body:
        return -1
    if streamed:
        return next((offset for offset, event in events_of(body) if _is_aborted(event)), -1)
    return 0 if _is_aborted(object_in(body)) else -1


def events_of(body: bytes) -> Iterator[tuple[int, dict[str, object]]]:
    """The events of a part of a stream that hold a JSON object, with their offsets."""
    offset = 0
    while offset < len(body):
        found = _END.search(body, offset)
        end = found.start() if found is not None else len(body)
        lines = body[offset:end].splitlines()
        yield offset, object_in(b"\n".join(line[len(_DATA) :] for line in lines if line.startswith(_DATA)))
        offset = found.end() if found is not None else end


def object_in(raw: bytes) -> dict[str, object]:
    """The JSON object in these bytes; an empty one if there is none."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_server_error(error: object) -> bool:
    if not isinstance(error, dict):
        return False
    code = error.get("code")
    return not isinstance(code, int) or code >= 500


def _is_aborted(answer: dict[str, object]) -> bool:
    choices = answer.get("choices")
    return isinstance(choices, list) and any(
        isinstance(choice, dict) and choice.get("finish_reason") == "abort" for choice in choices
    )
