# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the two instances are asked, and what the client is told: pure functions over JSON bodies and headers."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

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
        outcome: What the request counts as, a label of the counter `requests`.
        retry_after: Seconds after which the client may try again; None: not said.
        close: Whether the connection ends with this answer.
    """

    def __init__(
        self, status: int, message: str, *, outcome: str, retry_after: int | None = None, close: bool = False
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


def encode(body: Body) -> bytes:
    """The bytes of a JSON body; ASCII, so that lone surrogates survive.

    Raises:
        ValueError: A number in it is beyond a double, which JSON cannot say.
    """
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode("ascii")


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


def reason_to_skip_prefill(body: Body) -> str | None:
    """Why a request cannot use another engine's cache and goes to decode alone, or None if it can."""
    if _prompts(body) > 1:
        return "several prompts in one request, and kv_transfer_params name one"
    if body.get("prompt_logprobs") is not None or (body.get("echo") and body.get("logprobs") is not None):
        return "log probabilities of the prompt need the whole prompt computed where they are asked"
    if body.get("truncate_prompt_tokens") == -1:
        return "the prompt is cut by max_tokens, which differs between the two requests"
    if body.get("max_tokens") == 0 or body.get("max_completion_tokens") == 0:
        return "no token to decode"
    return None


_CLIENTS_OWN = "kv_transfer_params"


def _without_transfer(body: Body) -> Body:
    """The body without transfer parameters of the client's: they would make an instance dial whom the client names."""
    asked = {key: value for key, value in body.items() if key != _CLIENTS_OWN}
    extra = asked.get("vllm_xargs")
    if isinstance(extra, dict) and _CLIENTS_OWN in extra:
        asked["vllm_xargs"] = {key: value for key, value in extra.items() if key != _CLIENTS_OWN}
    return asked


def prefill_request(body: Body) -> Body:
    """The same request for the prefill instance: one token, not streamed, cache kept for a reader."""
    asked = {
        key: value for key, value in _without_transfer(body).items() if key not in {"stream_options", "min_tokens"}
    }
    asked["stream"] = False
    asked["max_tokens"] = 1
    for key in ("max_completion_tokens", "n", "best_of"):
        if asked.get(key) is not None:
            asked[key] = 1
    asked["kv_transfer_params"] = dict(_ASK_TO_KEEP)
    return asked


def decode_request(body: Body, params: Body | None) -> Body:
    """The request for the decode instance: the client's own, with the prefill instance's parameters or none.

    Parameters the client sent itself are dropped.
    """
    asked = _without_transfer(body)
    if params is not None:
        asked["kv_transfer_params"] = params
    return asked


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
