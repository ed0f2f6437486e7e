# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the two instances are asked, and what the client is told: pure functions over JSON bodies and headers."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .outcomes import Outcome

Body = dict[str, Any]
RawHeaders = list[tuple[bytes, bytes]]

# Hop-by-hop, or true of one connection or one body only.
_NOT_FORWARDED = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade host content-length content-type content-encoding accept-encoding expect x-request-id".split()
)
_NOT_RETURNED = frozenset(
    b"connection keep-alive proxy-authenticate proxy-connection te trailer transfer-encoding upgrade "
    b"content-length date server x-request-id".split()
)
_TICKET = "kv_transfer_params"
_ASK_TO_KEEP = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}


class RouterError(Exception):
    """An answer the router gives itself, in OpenAI's shape.

    Attributes:
        status: Of the answer.
        message: One line for the client.
        outcome: What the request counts as.
        retry_after: Seconds after which the client may try again; None: not said.
        close: Whether the connection ends with this answer.
    """

    def __init__(
        self, status: int, message: str, *, outcome: Outcome, retry_after: int | None = None, close: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.outcome = outcome
        self.retry_after = retry_after
        self.close = close


def error_object(status: int, message: str) -> Body:
    """The JSON object OpenAI's clients expect for an error."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def parse_object(raw: bytes) -> Body:
    """Parse a JSON object; integers of any size stay exact.

    Raises:
        ValueError: Not JSON, or not an object.
    """
    try:
        body = json.loads(raw, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(body, dict):
        raise ValueError(f"expected a JSON object, got {type(body).__name__}")  # noqa: TRY004 (one error for one cause)
    return body


def encode(value: object) -> bytes:
    """The bytes of a JSON value; ASCII, so that lone surrogates survive.

    Raises:
        ValueError: A number in it is beyond a double, which JSON cannot say.
    """
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


class RequestBody:
    """A client's request, taken apart and encoded once; its prefill and its decode differ in a few small members.

    Transfer parameters of the client's are dropped: they would make an instance dial whom the client names.

    Attributes:
        skips_prefill: Why it cannot use another engine's cache and goes to decode alone; None: it can.
    """

    def __init__(self, raw: bytes) -> None:
        """Read it.

        Raises:
            ValueError: It is no JSON object, or holds what JSON cannot say.
        """
        asked = parse_object(raw)
        self.skips_prefill = _reason_to_skip_prefill(asked)
        asked.pop(_TICKET, None)
        extra = asked.get("vllm_xargs")
        if isinstance(extra, dict):
            extra.pop(_TICKET, None)
        self._members = {key: encode(value) for key, value in asked.items()}

    def for_prefill(self) -> bytes:
        """The same request for the prefill instance: one token, not streamed, cache kept for a reader."""
        members = {**self._members, "stream": b"false", "max_tokens": b"1", _TICKET: encode(_ASK_TO_KEEP)}
        for key in ("stream_options", "min_tokens"):
            members.pop(key, None)
        for key in ("max_completion_tokens", "n", "best_of"):
            if members.get(key, b"null") != b"null":
                members[key] = b"1"
        return _object(members)

    def for_decode(self, ticket: bytes | None) -> bytes:
        """The request for the decode instance: the client's own, with the prefill instance's ticket or none."""
        return _object(self._members if ticket is None else {**self._members, _TICKET: ticket})


def _object(members: Mapping[str, bytes]) -> bytes:
    return b"{%s}" % b",".join(b"%s:%s" % (encode(key), value) for key, value in members.items())


def _prompts(body: Body) -> int:
    """How many prompts a completion request holds; a list of token ids is one."""
    total = 0
    for key in ("prompt", "prompt_embeds"):
        value = body.get(key)
        if isinstance(value, list) and not all(isinstance(item, int) for item in value):
            total += len(value)
        elif value is not None:
            total += 1
    return total


def _reason_to_skip_prefill(body: Body) -> str | None:
    if _prompts(body) > 1:
        return "several prompts in one request, and kv_transfer_params name one"
    if body.get("prompt_logprobs") is not None or (body.get("echo") and body.get("logprobs") is not None):
        return "log probabilities of the prompt need the whole prompt computed where they are asked"
    if body.get("truncate_prompt_tokens") == -1:
        return "the prompt is cut by max_tokens, which differs between the two requests"
    if body.get("max_tokens") == 0 or body.get("max_completion_tokens") == 0:
        return "no token to decode"
    return None


def take_request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The client's X-Request-Id, or a new one.

    Raises:
        ValueError: The client's cannot be passed on.
    """
    given = next((value for key, value in headers if key.lower() == b"x-request-id"), None)
    if given is None:
        return uuid.uuid4().hex
    text = given.decode("latin-1")
    if not (0 < len(text) <= 256 and text.isascii() and text.isprintable()):
        raise ValueError("X-Request-Id: expected 1 to 256 printable ASCII characters; leave it out to have one made")
    return text


def forwarded_headers(headers: Iterable[tuple[bytes, bytes]], request_id: str) -> RawHeaders:
    """The client's headers for an instance (Authorization and tracing among them), with one request id."""
    pairs = [(key.lower(), value) for key, value in headers]
    listed = {
        name.strip().lower() for key, value in pairs if key == b"connection" for name in value.split(b",")
    }  # a connection's own headers
    kept = [(key, value) for key, value in pairs if key not in _NOT_FORWARDED and key not in listed]
    # Not compressed: a stream's chunks must leave as they come.
    kept += [(b"accept-encoding", b"identity"), (b"content-type", b"application/json")]
    kept.append((b"x-request-id", request_id.encode("ascii")))
    return kept


def returned_headers(headers: Iterable[tuple[bytes, bytes]], request_id: str) -> RawHeaders:
    """An instance's headers for the client, with the request's id."""
    kept = [(key, value) for key, value in headers if key.lower() not in _NOT_RETURNED]
    kept.append((b"x-request-id", request_id.encode("ascii")))
    return kept
