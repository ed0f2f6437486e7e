# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the two instances are asked, and what the client is told: pure functions over JSON bodies and headers."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from kvdirect.transfer_params import CLAIM_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from .outcomes import Outcome

Body = dict[str, Any]
Members = dict[str, bytes]
RawHeaders = list[tuple[bytes, bytes]]

# What vLLM reads of a request's headers, tracing's, and who asks. Others stay here: an instance could believe them.
_FORWARDED = frozenset(
    b"authorization accept user-agent traceparent tracestate baggage b3 x-data-parallel-rank x-session-id "
    b"x-vllm-priority endpoint-load-metrics-format".split()
)
_NOT_RETURNED = frozenset(
    b"connection keep-alive proxy-authenticate proxy-connection te trailer transfer-encoding upgrade "
    b"content-length date server x-request-id".split()
)
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_TICKET = "kv_transfer_params"
# By which a request says where a cache lies, of keys and values or of a multimodal encoder's.
TRANSFER_PARAMS = (_TICKET, "ec_transfer_params")
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
# Members that decide where a request can be served, and the bytes of one that is looked into.
_DECIDES = (
    "prompt_logprobs",
    "echo",
    "logprobs",
    "truncate_prompt_tokens",
    "max_tokens",
    "max_completion_tokens",
)
_SMALL = 64
PROMPT_WANTED = "log probabilities of the prompt need the whole prompt computed where they are asked"
CUT_BY_LENGTH = "the prompt is cut by max_tokens, which differs between the two requests"
NOTHING_TO_DECODE = "no token to decode"
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
    return _ENCODER.encode(value).encode("ascii")


def reason_to_skip_completion(members: Members) -> str | None:
    """Why a completion, or chat completion, cannot use another engine's cache; None: it can."""
    if sum(_prompts(members[key]) for key in ("prompt", "prompt_embeds") if key in members) > 1:
        return "several prompts in one request, and kv_transfer_params name one"
    small = {key: small_value(members.get(key)) for key in _DECIDES}
    if small["prompt_logprobs"] is not None or (small["echo"] and small["logprobs"] is not None):
        return PROMPT_WANTED
    if small["truncate_prompt_tokens"] == -1:
        return CUT_BY_LENGTH
    if small["max_tokens"] == 0 or small["max_completion_tokens"] == 0:
        return NOTHING_TO_DECODE
    return None


@dataclass(frozen=True, slots=True)
class Form:
    """Where an API's requests have what differs between the two instances.

    Attributes:
        to_one: Members that make it one token, and one answer: of these the first is set, the others where given.
        dropped: Members that have no place beside that.
        fixed: Members that prefill is given as they are here.
        within: The member that holds those of `to_one` and `min_tokens`; None: the request itself.
        extras: Where else a client could put transfer parameters.
        reason_to_skip: Why a request with these members cannot be prefilled apart; None: it can.
    """

    to_one: tuple[str, ...] = ("max_tokens", "max_completion_tokens", "n", "best_of")
    dropped: tuple[str, ...] = ("stream_options", "min_tokens")
    fixed: tuple[tuple[str, bytes], ...] = ()
    within: str | None = None
    extras: tuple[tuple[str, ...], ...] = (("vllm_xargs",),)
    reason_to_skip: Callable[[Members], str | None] = reason_to_skip_completion

    def prefill(self, members: Members, claim: str) -> Members:
        """The members for the prefill instance: one token, not streamed, cache kept for a reader, or for `claim`."""
        asked = {key: value for key, value in members.items() if key not in self.dropped}
        if self.within is None:
            asked |= self._one(members)
        else:
            inner = members_of(members.get(self.within, b"{}"))
            inner.pop("min_tokens", None)
            asked[self.within] = object_of(inner | self._one(inner))
        return {**asked, "stream": b"false", **dict(self.fixed), _TICKET: encode({**_ASK_TO_KEEP, CLAIM_KEY: claim})}

    def _one(self, members: Members) -> Members:
        first, *others = self.to_one
        return {first: b"1", **{key: b"1" for key in others if members.get(key, b"null") != b"null"}}


class RequestBody:
    """A client's request, taken apart into its members; its prefill and its decode differ in a few small ones.

    Members are passed on as they were sent, unread but for those that say where the request can be served: a body
    costs a look at each of its bytes, however it is nested. Transfer parameters of the client's are dropped: they would
    make an instance dial whom the client names.

    Attributes:
        skips_prefill: Why it cannot use another engine's cache and goes to decode alone; None: it can.
    """

    def __init__(self, raw: bytes, form: Form = Form()) -> None:
        """Read it.

        Raises:
            ValueError: It is no JSON object.
        """
        self._form = form
        self._members = members_of(raw)
        for name in TRANSFER_PARAMS:
            self._members.pop(name, None)
        for path in form.extras:
            _drop_transfer_params(self._members, path)
        self.skips_prefill = form.reason_to_skip(self._members)

    @property
    def model(self) -> str | None:
        """The model that is asked for; None: the instance's own choice, or no name at all."""
        return text_of(self._members.get("model"))

    @property
    def previous(self) -> str | None:
        """The stored Response that this one goes on from."""
        return text_of(self._members.get("previous_response_id"))

    def for_prefill(self, claim: str) -> bytes:
        """The same request for the prefill instance.

        Args:
            claim: By which the cache can be given back without its ticket.
        """
        return object_of(self._form.prefill(self._members, claim))

    def for_decode(self, ticket: bytes | None) -> bytes:
        """The request for the decode instance: the client's own, with the prefill instance's ticket or none."""
        return object_of(self._members if ticket is None else {**self._members, _TICKET: ticket})


class PassedBody:
    """A client's request that is passed on as it was sent: of one that goes to decode alone and cannot name a cache."""

    skips_prefill: str | None = "it goes to one instance"
    previous: str | None = None

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    @property
    def model(self) -> str | None:
        """The model that is asked for, as far as one can be read."""
        try:
            return text_of(members_of(self._raw).get("model"))
        except ValueError:
            return None

    def for_prefill(self, _claim: str) -> bytes:
        """Nobody asks for it."""
        raise RuntimeError(self.skips_prefill)

    def for_decode(self, _ticket: bytes | None) -> bytes:
        """The request."""
        return self._raw


def _drop_transfer_params(members: Members, path: tuple[str, ...]) -> None:
    """Drop the transfer parameters in an object within the members, of which nothing else changes."""
    value = members.get(path[0], b"")
    if not value.startswith(b"{"):
        return
    inner = members_of(value)
    before = dict(inner)
    if len(path) > 1:
        _drop_transfer_params(inner, path[1:])
    else:
        for name in TRANSFER_PARAMS:
            inner.pop(name, None)
    if inner != before:
        members[path[0]] = object_of(inner)


def members_of(raw: bytes) -> Members:
    """The members of a JSON object, each as its bytes; what they hold is checked to be JSON, and no object is made.

    Raises:
        ValueError: It is none.
    """
    try:
        str(raw, "utf-8")
        return {key: bytes(value) for key, value in _OBJECT.decode(raw).items()}
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except msgspec.ValidationError as error:
        raise ValueError(f"expected a JSON object: {error}") from error
    except msgspec.DecodeError as error:
        raise ValueError(f"not JSON: {error}") from error


def object_of(members: Members) -> bytes:
    """The JSON object that has these members."""
    return b"{%s}" % b",".join(b"%s:%s" % (_key(key), value) for key, value in members.items())


def _key(key: str) -> bytes:
    return b'"%b"' % key.encode("ascii") if key.isascii() and key.isidentifier() else encode(key)


def _prompts(member: bytes) -> int:
    """How many prompts a member holds, two standing for more; a list of token ids is one."""
    if not member.startswith(b"["):
        return 0 if member == b"null" else 1
    first = member[1:].lstrip()[:1]
    if first not in b'["{':  # nothing, or token ids
        return 1
    return min(2, len(_LIST.decode(member)))


def list_of(member: bytes) -> list[bytes]:
    """The elements of a JSON list, each as its bytes.

    Raises:
        ValueError: It is none.
    """
    try:
        return [bytes(element) for element in _LIST.decode(member)]
    except msgspec.DecodeError as error:
        raise ValueError(f"expected a list: {error}") from error


def text_of(member: bytes | None) -> str | None:
    """A member that is a string; None: it is not."""
    value = None if member is None or not member.startswith(b'"') else msgspec.json.decode(member)
    return value if isinstance(value, str) else None


def small_value(member: bytes | None) -> object:
    """A small member's value; of one that is not small, that it is something."""
    return None if member is None else msgspec.json.decode(member) if len(member) < _SMALL else member


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


def forwarded_headers(
    headers: Iterable[tuple[bytes, bytes]],
    request_id: str,
    more: Collection[bytes] = (),
    *,
    content_type: bytes = b"application/json",
) -> RawHeaders:
    """Those of a client's headers that an instance is to have, with one request id.

    Args:
        headers: The client's.
        request_id: As `take_request_id` returns it.
        more: Names, in lower case, beyond those that every instance gets.
        content_type: Of the body.
    """
    pairs = [(key.lower(), value) for key, value in headers]
    listed = {
        name.strip().lower() for key, value in pairs if key == b"connection" for name in value.split(b",")
    }  # a connection's own headers
    kept = [(key, value) for key, value in pairs if (key in _FORWARDED or key in more) and key not in listed]
    # Not compressed: a stream's chunks must leave as they come.
    kept += [(b"accept-encoding", b"identity"), (b"content-type", content_type)]
    kept.append((b"x-request-id", request_id.encode("ascii")))
    return kept


def returned_headers(headers: Iterable[tuple[bytes, bytes]], request_id: str) -> RawHeaders:
    """An instance's headers for the client, with the request's id."""
    kept = [(key, value) for key, value in headers if key.lower() not in _NOT_RETURNED]
    kept.append((b"x-request-id", request_id.encode("ascii")))
    return kept
