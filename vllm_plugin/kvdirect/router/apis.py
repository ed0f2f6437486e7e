# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What is served: for each path who answers it, how its prefill is asked for, and how its errors are told.

These are the paths of vLLM 0.32 that clients use. What controls an engine (`/sleep`, `/pause`, `/abort_requests`, ...)
is not among them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from .bodies import (
    CUT_BY_LENGTH,
    NOTHING_TO_DECODE,
    PROMPT_WANTED,
    Form,
    Members,
    encode,
    error_object,
    list_of,
    members_of,
    small_value,
)
from .events import aborted_at, events_of, object_in

if TYPE_CHECKING:
    from collections.abc import Callable

Json = dict[str, object]


class Who(Enum):
    """Who answers a request."""

    BOTH = auto()  # prefill, then decode
    DECODE = auto()  # decode alone, which generates: transfer parameters are dropped
    PASSED = auto()  # decode alone, with the body as it was sent
    STORED = auto()  # the one decode instance that may have stored it


@dataclass(frozen=True, slots=True)
class Api:
    """One API: how its requests differ between the instances, and how it tells of errors. This one is OpenAI's first.

    Attributes:
        label: In metrics.
        form: Of its requests.
    """

    label: str
    form: Form = Form()  # noqa: RUF009 (it is frozen)

    def error(self, status: int, message: str) -> bytes:
        """The body of an answer that is an error."""
        return encode(error_object(status, message))

    def last_event(self, status: int, message: str, _first: bytes, _last: bytes) -> bytes:
        """The event that ends a stream with an error, after the parts `first` to `last`."""
        return b"data: " + self.error(status, message) + b"\n\n"

    def has_begun(self, _events: bytes) -> bool:
        """Whether the beginning of a stream shows that the engine has computed something."""
        return True

    def aborted_at(self, body: bytes, *, streamed: bool) -> int:
        """Where the engine gave the request up (see `events.aborted_at`), or -1."""
        return aborted_at(body, streamed=streamed)


class _Responses(Api):
    """OpenAI's Responses: events have names and numbers, and the first two come before anything was computed."""

    __slots__ = ()

    def last_event(self, status: int, message: str, first: bytes, last: bytes) -> bytes:
        """`response.failed`, with the Response that the stream began with; where there is none, `error`."""
        begun = next((event.get("response") for _, event in events_of(first) if "response" in event), None)
        numbers = [event.get("sequence_number") for _, event in events_of(last)]
        number = max((each for each in numbers if isinstance(each, int)), default=-1) + 1
        code = "server_error" if status >= 500 else "invalid_prompt"
        if isinstance(begun, dict):
            response = {**begun, "status": "failed", "error": {"code": code, "message": message}}
            return _named("response.failed", {"sequence_number": number, "response": response})
        return _named("error", {"sequence_number": number, "code": code, "message": message, "param": None})

    def has_begun(self, events: bytes) -> bool:
        """Whether there is an event behind `response.created`, `response.queued` and `response.in_progress`."""
        kinds = [event.get("type") for _, event in events_of(events)]
        return any(kind not in _BEFORE for kind in kinds)

    def aborted_at(self, body: bytes, *, streamed: bool) -> int:
        """VLLM says so of models that speak Harmony only; of others an aborted Response looks completed."""
        return _found(body, b'"cancelled"', streamed=streamed, is_it=_cancelled)


class _Messages(Api):
    """Anthropic's Messages."""

    __slots__ = ()

    def error(self, status: int, message: str) -> bytes:
        """Anthropic's error object."""
        kind = _ANTHROPIC_ERRORS.get(status, "invalid_request_error" if status < 500 else "api_error")
        return encode({"type": "error", "error": {"type": kind, "message": message}})

    def last_event(self, status: int, message: str, _first: bytes, _last: bytes) -> bytes:
        """An event of the kind `error`."""
        return b"event: error\ndata: " + self.error(status, message) + b"\n\n"

    def aborted_at(self, body: bytes, *, streamed: bool) -> int:
        """A message that ends without a reason: vLLM has none for an abort there."""
        if streamed:
            return _found(body, b'"message_delta"', streamed=True, is_it=_ends_without_reason)
        return _found(body, b'"message"', streamed=False, is_it=_message_without_reason)


class _Cohere(Api):
    """Cohere's chat, version 2."""

    __slots__ = ()

    def error(self, _status: int, message: str) -> bytes:
        """Cohere's error object."""
        return encode({"message": message})

    def last_event(self, _status: int, message: str, _first: bytes, _last: bytes) -> bytes:
        """The end of the message, with the reason `ERROR`."""
        delta = {"error": message, "finish_reason": "ERROR"}
        return b"data: " + encode({"type": "message-end", "delta": delta}) + b"\n\n"


# A tuple, as instances and clients may send what cannot be in a set.
_BEFORE = ("response.created", "response.queued", "response.in_progress")
_ANTHROPIC_ERRORS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def _named(kind: str, event: Json) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode("ascii"), encode({"type": kind, **event}))


def _found(body: bytes, mark: bytes, *, streamed: bool, is_it: Callable[[Json], bool]) -> int:
    """The offset of the first event, or 0 for a whole answer, that is so; -1: none is."""
    if mark not in body:
        return -1
    if streamed:
        return next((offset for offset, event in events_of(body) if is_it(event)), -1)
    return 0 if is_it(object_in(body)) else -1


def _cancelled(answer: Json) -> bool:
    response = answer.get("response", answer)
    return isinstance(response, dict) and response.get("status") == "cancelled"


def _ends_without_reason(event: Json) -> bool:
    delta = event.get("delta")
    return event.get("type") == "message_delta" and isinstance(delta, dict) and delta.get("stop_reason") is None


def _message_without_reason(answer: Json) -> bool:
    return answer.get("type") == "message" and answer.get("stop_reason") is None


def _responses_skip(members: Members) -> str | None:
    small = {key: small_value(members.get(key)) for key in ("background", "previous_response_id", "truncation")}
    if small["background"]:
        return "it runs in the background, and its first answer tells nothing of a cache"
    if small["previous_response_id"] is not None:
        return "what it goes on from is stored on decode"
    if small["truncation"] not in (None, "disabled"):
        return CUT_BY_LENGTH
    if small_value(members.get("max_output_tokens")) == 0:
        return NOTHING_TO_DECODE
    if _has_other_tools(members.get("tools", b"null")):
        return "its tools run on the engine, which asks itself several times, and a ticket is good for one"
    return None


def _has_other_tools(tools: bytes) -> bool:
    """Whether there are tools beside those that the client runs."""
    if not tools.startswith(b"["):
        return False
    kinds = [members_of(tool).get("type") for tool in list_of(tools) if tool.startswith(b"{")]
    return any(kind not in {b'"function"', b'"custom"'} for kind in kinds)


def _messages_skip(members: Members) -> str | None:
    if small_value(members.get("max_tokens")) in (None, 0):
        return NOTHING_TO_DECODE
    return None


def _generate_skip(members: Members) -> str | None:
    params = members.get("sampling_params", b"")
    if not params.startswith(b"{"):
        return "it has no sampling_params"
    inner = members_of(params)
    if any(inner.get(key, b"null") != b"null" for key in ("prompt_logprobs", "prompt_logprob_token_ids")):
        return PROMPT_WANTED
    return NOTHING_TO_DECODE if small_value(inner.get("max_tokens")) == 0 else None


def _cohere_skip(members: Members) -> str | None:
    return NOTHING_TO_DECODE if small_value(members.get("max_tokens")) == 0 else None


def _never(_members: Members) -> str | None:
    return "vLLM gives it no way to read a cache"


_SAMPLING = "sampling_params"
_EXTRAS = (("vllm_xargs",), (_SAMPLING, "extra_args"))
COMPLETIONS = Api("completions")
CHAT = Api("chat_completions")
RESPONSES = _Responses(
    "responses",
    Form(("max_output_tokens",), ("stream_options",), (("store", b"false"),), reason_to_skip=_responses_skip),
)
MESSAGES = _Messages("messages", Form(("max_tokens",), (), reason_to_skip=_messages_skip))
GENERATE = Api(
    "generate",
    Form(("max_tokens", "n"), ("stream_options",), within=_SAMPLING, extras=_EXTRAS, reason_to_skip=_generate_skip),
)
COHERE = _Cohere("cohere_chat", Form(("max_tokens",), (), reason_to_skip=_cohere_skip))
OTHER = Api("other", Form(extras=_EXTRAS, reason_to_skip=_never))
_OTHER_MESSAGES = _Messages("other")
_OTHER_COHERE = _Cohere("other")
LABELS = tuple(api.label for api in (COMPLETIONS, CHAT, RESPONSES, MESSAGES, GENERATE, COHERE, OTHER))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is served at a path; some take forms beside JSON."""

    who: Who
    api: Api = OTHER
    method: str = "POST"
    takes_forms: bool = False


ENDPOINTS: dict[str, Endpoint] = {
    "/v1/completions": Endpoint(Who.BOTH, COMPLETIONS),
    "/v1/chat/completions": Endpoint(Who.BOTH, CHAT),
    "/v1/responses": Endpoint(Who.BOTH, RESPONSES),
    "/v1/messages": Endpoint(Who.BOTH, MESSAGES),
    "/inference/v1/generate": Endpoint(Who.BOTH, GENERATE),
    "/cohere/v2/chat": Endpoint(Who.BOTH, COHERE),
    "/v1/chat/completions/batch": Endpoint(Who.DECODE),
    "/v1/systemone": Endpoint(Who.DECODE),
    "/generative_scoring": Endpoint(Who.DECODE),
    "/v1/responses/{response_id}": Endpoint(Who.STORED, method="GET"),
    "/v1/responses/{response_id}/cancel": Endpoint(Who.STORED),
    "/v1/messages/count_tokens": Endpoint(Who.PASSED, _OTHER_MESSAGES),
    "/v1/messages/render": Endpoint(Who.PASSED, _OTHER_MESSAGES),
    "/cohere/v2/chat/render": Endpoint(Who.PASSED, _OTHER_COHERE),
    "/v1/audio/transcriptions": Endpoint(Who.PASSED, takes_forms=True),
    "/v1/audio/translations": Endpoint(Who.PASSED, takes_forms=True),
    "/version": Endpoint(Who.PASSED, method="GET"),
    "/tokenizer_info": Endpoint(Who.PASSED, method="GET"),
    **dict.fromkeys(
        (
            "/tokenize",
            "/detokenize",
            "/v1/embeddings",
            "/v2/embed",
            "/score",
            "/v1/score",
            "/rerank",
            "/v1/rerank",
            "/v2/rerank",
            "/pooling",
            "/classify",
            "/v1/completions/render",
            "/v1/chat/completions/render",
            "/v1/responses/render",
            "/v1/completions/derender",
            "/v1/chat/completions/derender",
        ),
        Endpoint(Who.PASSED),
    ),
}
STORED_PATH = "/v1/responses/{response_id}"
_STORED = re.compile(r"/v1/responses/(?P<response_id>[A-Za-z0-9][\w.-]{0,255})(?P<rest>/cancel)?", re.ASCII)


def endpoint_of(path: str) -> Endpoint | None:
    """What is served at a request's path, if anything."""
    found = ENDPOINTS.get(path)
    if found is not None and found.who is not Who.STORED:
        return found
    if stored := _STORED.fullmatch(path):
        return ENDPOINTS[STORED_PATH + (stored["rest"] or "")]
    return None
