# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Routers of other projects that cannot run here, played: what each sends for one request, field by field.

They were read, not run: `READ` of each says what. Headers and bodies are as theirs are, down to the order of fields and
to numbers that went through a double, as far as an engine could tell the difference.
"""

from __future__ import annotations

import json
import re
import uuid
from decimal import Decimal
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

import httpx

from kvdirect.harness.http_client import http

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Body = dict[str, Any]
Headers = list[tuple[str, str]]

# In this order in all of them but where an encoder sorts.
NOTHING_YET: Mapping[str, Any] = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}


class Foreign:
    """One request through a router: prefill, then decode; the answer that its client gets."""

    READ: ClassVar[str] = ""

    def __init__(self, prefill: str, decode: str) -> None:
        """Take the base URLs of both engines."""
        self.prefill, self.decode = prefill, decode

    def ask(self, path: str, body: Body, request_id: str) -> httpx.Response:
        """What a client sent, with its X-Request-Id."""
        raise NotImplementedError


def post(url: str, content: bytes, headers: Headers) -> httpx.Response:
    """With Content-Length, as all of them send."""
    return http().post(url, content=content, headers=headers, timeout=120.0)


class ToyProxy(Foreign):
    """vLLM's example for NIXL: parsed by Python, passed on by httpx; a request id of its own for both engines."""

    READ = "vLLM, main branch, tests/v1/kv_connector/nixl_integration/toy_proxy_server.py"

    def ask(self, path: str, body: Body, request_id: str) -> httpx.Response:
        del request_id  # the client's is not looked at
        headers = [("Authorization", "Bearer None"), ("X-Request-Id", str(uuid.uuid4()))]
        first = body | {"kv_transfer_params": NOTHING_YET, "stream": False, "max_tokens": 1}
        if "max_completion_tokens" in first:
            first["max_completion_tokens"] = 1
        for name in ("stream_options", "min_tokens", "min_completion_tokens"):
            first.pop(name, None)
        answer = http().post(self.prefill + path, json=first, headers=headers, timeout=120.0)
        answer.raise_for_status()
        ticket = answer.json().get("kv_transfer_params", {})
        second = body | ({"kv_transfer_params": ticket} if ticket else {})
        return http().post(self.decode + path, json=second, headers=headers, timeout=120.0)


class ProductionStack(Foreign):
    """`disaggregated_prefill_orchestrated`: the ticket's host becomes that of the prefill engine's URL."""

    READ = "production-stack, after 0.1.13: request_service/request.py through its tests"

    def ask(self, path: str, body: Body, request_id: str) -> httpx.Response:
        headers = [("Content-Type", "application/json"), ("X-Request-Id", request_id or str(uuid.uuid4()))]
        first = body | {"max_tokens": 1, "stream": False, "kv_transfer_params": NOTHING_YET}
        for name in ("stream_options", "min_tokens"):
            first.pop(name, None)
        answer = post(self.prefill + path, json.dumps(first).encode(), headers)
        if answer.status_code >= 400:
            return answer
        ticket = answer.json().get("kv_transfer_params") or {}
        second = body | {"kv_transfer_params": ticket | {"remote_host": urlsplit(self.prefill).hostname}}
        return post(self.decode + path, json.dumps(second).encode(), headers)


class ProductionStackBefore(Foreign):
    """The older `disaggregated_prefill`: both engines are asked, and neither is told of the other."""

    READ = "production-stack, request_service/request.py"

    def ask(self, path: str, body: Body, request_id: str) -> httpx.Response:
        headers = [("Content-Type", "application/json"), ("X-Request-Id", request_id)]
        first = body | {"max_tokens": 1, "stream": False}
        post(self.prefill + path, json.dumps(first).encode(), headers).raise_for_status()
        return post(self.decode + path, json.dumps(body).encode(), headers)


class LlmdSidecar(Foreign):
    """`nixlv2`: Go's decoder and encoder, the client's headers kept, an id of its own added behind the client's."""

    READ = "llm-d-router 0545789, pkg/sidecar/proxy/connector_nixlv2.go"

    def ask(self, path: str, body: Body, request_id: str) -> httpx.Response:
        seen = through_doubles(json.loads(json.dumps(body)))
        headers = [
            ("Content-Type", "application/json"),
            *([("X-Request-Id", request_id)] if request_id else []),
            ("X-Prefiller-Host-Port", urlsplit(self.prefill).netloc),
            ("X-Request-Id", str(uuid.uuid1())),
            ("X-Forwarded-For", "127.0.0.1"),
            ("Accept-Encoding", "gzip"),
        ]
        first = seen | {"kv_transfer_params": NOTHING_YET, "max_tokens": 1, "max_completion_tokens": 1, "stream": False}
        for name in ("stream_options", "min_tokens"):
            first.pop(name, None)
        answer = post(self.prefill + path, go_json(first), headers)
        if not answer.is_success:
            return answer
        ticket = through_doubles(answer.json()).get("kv_transfer_params")
        return self.dispatch(self.decode + path, seen | {"kv_transfer_params": ticket}, headers)

    def dispatch(self, url: str, body: Body, headers: Headers) -> httpx.Response:
        """The decode leg."""
        return post(url, go_json(body), headers)


class LlmdSidecarInChunks(LlmdSidecar):
    """The same with `--decode-chunk-size`: decode answers a chat a few tokens at a time, and the first has the ticket.

    What decode said is sent back as a message of its own, which the next chunk goes on from.
    """

    READ = "llm-d-router 0f44dd1, pkg/sidecar/proxy/decode.go"
    CHUNK = 4

    def dispatch(self, url: str, body: Body, headers: Headers) -> httpx.Response:
        said = []
        left = int(body.get("max_completion_tokens") or body["max_tokens"])
        while left > 0:
            budget = min(left, self.CHUNK)
            chunk = body | {"max_tokens": budget, "max_completion_tokens": budget, "stream": False}
            chunk.pop("stream_options", None)
            if said:
                del chunk["kv_transfer_params"]
                chunk |= {"continue_final_message": True, "add_generation_prompt": False}
            answer = post(url, go_json(chunk), headers)
            if not answer.is_success:
                return answer
            whole = answer.json()
            said.append(whole["choices"][0]["message"]["content"])
            left -= whole["usage"]["completion_tokens"]
            body = body | {"messages": [*body["messages"], {"role": "assistant", "content": said[-1]}]}
        whole["choices"][0]["message"]["content"] = "".join(said)
        return httpx.Response(200, json=whole)


class Aibrix(Foreign):
    """The agent `shfs`: the ticket's host becomes the pod's IP; maps are written in no order; decode is Envoy's."""

    READ = "AIBrix 064ce84, pkg/plugins/gateway/algorithms/pd: transfer/shfs.go, prefill/payload.go, prefill/default.go"
    POD_IP = "127.0.0.1"

    def ask(self, path: str, body: Body, request_id: str) -> httpx.Response:
        del request_id  # the gateway makes one
        seen = through_doubles(json.loads(json.dumps(body)))
        ours = str(uuid.uuid4())
        first = seen | {"kv_transfer_params": NOTHING_YET, "max_tokens": 1, "max_completion_tokens": 1, "stream": False}
        for name in ("stream_options", "min_tokens"):
            first.pop(name, None)
        headers = [("Content-Type", "application/json"), ("Routing-Strategy", "pd"), ("X-Request-Id", ours)]
        answer = post(self.prefill + path, sonic_json(first), headers)
        if answer.status_code != 200:
            return answer
        ticket = through_doubles(answer.json())["kv_transfer_params"]
        second = seen | {"kv_transfer_params": ticket | {"remote_host": self.POD_IP}}
        headers += [
            ("target-pod", urlsplit(self.decode).netloc),
            ("x-forwarded-proto", "http"),
            ("x-envoy-expected-rq-timeout-ms", "120000"),
        ]
        return post(self.decode + path, sonic_json(second), headers)


class Dynamo(Foreign):
    """Workers that call vLLM in their own process: token ids, one name for both, the ticket handed over as JSON.

    What goes into `kv_transfer_params` is decided by Dynamo's own code; how it gets to vLLM is played over HTTP.
    """

    READ = "ai-dynamo 1.6.1, dynamo/vllm/handlers.py; kv_connector_protocols.py is run"

    def __init__(self, prefill: str, decode: str, protocol: Any) -> None:  # noqa: ANN401  (theirs)
        """Take what Dynamo chose for a prefill engine's configuration, too."""
        super().__init__(prefill, decode)
        self._protocol = protocol

    def ask(self, path: str, body: Body, request_id: str) -> httpx.Response:
        headers = [("Content-Type", "application/json"), ("X-Request-Id", request_id)]
        asked = self._protocol.prefill_request_kv_transfer_params()
        first = body | {"max_tokens": 1, "min_tokens": 1, "stream": False, "kv_transfer_params": dict(asked)}
        first.pop("stream_options", None)
        answer = post(self.prefill + path, json.dumps(first).encode(), headers)
        if answer.status_code != 200:
            return answer
        result = SimpleNamespace(kv_transfer_params=answer.json().get("kv_transfer_params"))
        ticket = json.loads(json.dumps(self._protocol.decode_request_kv_transfer_params(result)))
        return post(self.decode + path, json.dumps(body | {"kv_transfer_params": dict(ticket)}).encode(), headers)


def through_doubles(value: Any) -> Any:  # noqa: ANN401  (JSON)
    """As Go has JSON that it decoded into a map: every number is a double."""
    if isinstance(value, dict):
        return {key: through_doubles(item) for key, item in value.items()}
    if isinstance(value, list):
        return [through_doubles(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def go_json(value: Body) -> bytes:
    """As encoding/json writes a map: keys in order, no spaces, <, > and & escaped."""
    return "".join(_written(value, ordered=True)).encode()


def sonic_json(value: Body) -> bytes:
    """As sonic writes a map: in no order (the last first, here), nothing escaped that need not be."""
    return "".join(_written(value, ordered=False)).encode()


def _written(value: Any, *, ordered: bool) -> Iterator[str]:  # noqa: ANN401  (JSON)
    write = partial(_written, ordered=ordered)
    if isinstance(value, dict):
        yield "{"
        for place, key in enumerate(sorted(value) if ordered else reversed(value)):
            yield "," * bool(place)
            yield from write(key)
            yield ":"
            yield from write(value[key])
        yield "}"
    elif isinstance(value, list):
        yield "["
        for place, item in enumerate(value):
            yield "," * bool(place)
            yield from write(item)
        yield "]"
    elif isinstance(value, str) and ordered:
        yield re.sub(
            "[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False)
        )
    elif isinstance(value, float):
        yield _double(value)
    else:
        yield json.dumps(value, ensure_ascii=False)


def _double(value: float) -> str:
    """With as few digits as tell it from others, and an exponent only where it is very small or very large."""
    if value and not 1e-6 <= abs(value) < 1e21:
        return re.sub(r"e([+-])0+", r"e\1", repr(value))
    return format(Decimal(repr(value)), "f").removesuffix(".0")
