# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The router's OpenTelemetry spans: their tree, whose trace they are in, and what comes of it when nobody listens."""

import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from played_backend import Backend, Reply, wait_until
from router_process import Proxy, command, run_cli
from span_receiver import OVER_HTTP, Span, SpanReceiver

GOOD = "http://127.0.0.1:8100"
TICKET = {"do_remote_prefill": True, "kvdirect_lease": "1:00ff:1:9:1", "remote_request_id": "cmpl-other"}
SERVER, CLIENT = 2, 3


@dataclass
class Traced:
    """A router whose spans come to the receiver, before two instances."""

    proxy: Proxy
    prefill: Backend
    decode: Backend
    receiver: SpanReceiver

    def ask(self, *headers: tuple[str, str], **body: object) -> httpx.Response:
        content = {"model": "m", "prompt": "hi", **body}
        return self.proxy.client.post("/v1/completions", json=content, headers=list(headers))

    def context(self, backend: Backend) -> tuple[str, str, str]:
        """Trace id, span id and flags that an instance was asked with."""
        found = re.fullmatch(r"00-(\w{32})-(\w{16})-(\w\d)", backend.only.headers["traceparent"])
        assert found
        return found[1], found[2], found[3]


@pytest.fixture(scope="module")
def running() -> Iterator[Traced]:
    with (
        pytest.MonkeyPatch.context() as patch,
        SpanReceiver() as receiver,
        Backend("prefill") as prefill,
        Backend("decode") as decode,
    ):
        for name, value in OVER_HTTP:
            patch.setenv(name, value)
        with Proxy([prefill.url], [decode.url], "--otlp-traces-endpoint", receiver.url, "--log-requests") as proxy:
            yield Traced(proxy, prefill, decode, receiver)


@pytest.fixture
def traced(running: Traced) -> Traced:
    running.prefill.reset()
    running.decode.reset()
    running.prefill.reply = Reply(params=TICKET)
    running.proxy.wait_health("prefill", True)
    running.proxy.wait_health("decode", True)
    return running


def new_trace(flags: str = "01") -> tuple[str, str, str]:
    """A trace id, a span id, and the header that says so."""
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    return trace, span, f"00-{trace}-{span}-{flags}"


def by_name(spans: list[Span]) -> dict[str, Span]:
    assert len({span.name for span in spans}) == len(spans), [span.name for span in spans]
    return {span.name: span for span in spans}


@pytest.mark.parametrize("streamed", [False, True])
def test_the_tree_of_a_request_hangs_below_the_clients_span(traced: Traced, streamed: bool) -> None:
    trace, client, header = new_trace()
    answer = traced.ask(("traceparent", header), ("tracestate", "a=1,b=2"), ("x-request-id", "it-1"), stream=streamed)
    assert answer.status_code == 200
    root_name = "POST /v1/completions"
    names = (root_name, "kvdirect.prefill", "kvdirect.ticket", "kvdirect.decode")
    spans = by_name(traced.receiver.wait_for(trace, *names))
    assert set(spans) == set(names)
    root, prefill, ticket, decode = (spans[name] for name in names)
    assert root.parent == client
    assert root.kind == SERVER
    assert root.attributes["kvdirect.request.id"] == "it-1"
    assert root.attributes["kvdirect.outcome"] == "ok"
    assert root.attributes["http.route"] == "/v1/completions"
    assert root.attributes["http.response.status_code"] == 200
    assert {root.service} == {"kvdirect-proxy"}
    assert {prefill.parent, ticket.parent, decode.parent} == {root.id}
    assert prefill.kind == decode.kind == CLIENT
    assert prefill.attributes["kvdirect.instance"] == traced.prefill.url
    assert decode.attributes["kvdirect.instance"] == traced.decode.url
    assert decode.events == ("first_byte",)
    assert ticket.attributes["kvdirect.outcome"] == "redeemed"
    assert root.begin <= prefill.begin <= prefill.end <= ticket.begin <= decode.begin <= ticket.end
    assert ticket.end <= decode.end <= root.end
    assert not any(span.failed for span in spans.values())
    # What instances are asked lies below what asks them.
    assert traced.context(traced.prefill) == (trace, prefill.id, "01")
    assert traced.context(traced.decode) == (trace, decode.id, "01")
    assert traced.decode.only.headers["tracestate"] == "a=1,b=2"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("traceparent", "00-" + "0" * 32 + "-" + "1" * 16 + "-01")],
        [("traceparent", "ff-" + "1" * 32 + "-" + "1" * 16 + "-01")],
        [("traceparent", "nonsense")],
        [("traceparent", "00-" + "1" * 5000)],
        [("traceparent", new_trace()[2]), ("traceparent", new_trace()[2])],
        [("traceparent", new_trace()[2]), ("tracestate", "a=" + "x" * 5000)],
    ],
    ids=["none", "zero", "version", "nonsense", "long", "two", "long state"],
)
def test_without_a_usable_context_a_trace_begins(traced: Traced, headers: list[tuple[str, str]]) -> None:
    assert traced.ask(*headers).status_code == 200
    trace, span, _ = traced.context(traced.decode)
    assert not any(trace in value for _, value in headers)
    spans = by_name(traced.receiver.wait_for(trace, "POST /v1/completions", "kvdirect.decode"))
    assert spans["POST /v1/completions"].parent == ""
    assert spans["kvdirect.decode"].id == span
    assert "tracestate" not in traced.decode.only.headers


def test_a_request_that_the_client_does_not_sample_is_not_told_of(traced: Traced) -> None:
    trace, _, header = new_trace("00")
    assert traced.ask(("traceparent", header)).status_code == 200
    assert traced.context(traced.decode)[::2] == (trace, "00"), "engines do not sample it either"
    later, _, header = new_trace()
    traced.ask(("traceparent", header))
    traced.receiver.wait_for(later, "POST /v1/completions")
    assert traced.receiver.of(trace) == []


def test_what_fails_is_an_error_in_the_span_of_who_failed(traced: Traced) -> None:
    traced.decode.reply = Reply(500)
    trace, _, header = new_trace()
    assert traced.ask(("traceparent", header)).status_code == 500
    names = ["kvdirect.decode", "kvdirect.decode", "kvdirect.ticket", "POST /v1/completions"]
    spans = traced.receiver.wait_for(trace, *names)
    first, second = (span for span in spans if span.name == "kvdirect.decode")
    assert first.failed
    assert "failed with the request (status 500)" in first.why
    assert second.attributes["http.response.status_code"] == 500
    [ticket] = [span for span in spans if span.name == "kvdirect.ticket"]
    assert ticket.attributes["kvdirect.outcome"] == "not_used"
    [root] = [span for span in spans if span.name == "POST /v1/completions"]
    assert root.failed
    assert root.attributes["kvdirect.outcome"] == "failed"


def test_ids_of_clients_are_in_no_name_and_keys_in_no_span(traced: Traced) -> None:
    trace, _, header = new_trace()
    traced.proxy.client.get("/v1/responses/resp_of_a_client", headers={"traceparent": header})
    traced.ask(("traceparent", header), ("authorization", "Bearer sk-secret"), prompt="a prompt of mine")
    spans = traced.receiver.wait_for(trace, "GET /v1/responses/{response_id}", "POST /v1/completions")
    told = repr(spans)
    for word in ("resp_of_a_client", "sk-secret", "a prompt of mine", "00ff:1:9"):
        assert word not in told


def test_a_receiver_that_is_away_or_silent_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (*OVER_HTTP, ("OTEL_BSP_MAX_QUEUE_SIZE", "64"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "32")):
        monkeypatch.setenv(name, value)
    with socket.create_server(("127.0.0.1", 0)) as silent, Backend("both") as both:
        both.reply = Reply(params=TICKET)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces"  # takes connections, and says nothing
        with Proxy([both.url], [both.url], "--otlp-traces-endpoint", url) as proxy:
            proxy.wait_health("decode", True)
            for _ in range(100):  # 400 spans, of which the queue has room for 64
                assert proxy.complete().status_code == 200
            silent.close()
            for _ in range(30):
                assert proxy.complete().status_code == 200
            wait_until(lambda: "OpenTelemetry" in proxy.log, "a line about the receiver")
            began = time.monotonic()
            proxy.process.send_signal(signal.SIGTERM)
            assert proxy.finish() == 0
            assert time.monotonic() - began < 8.0
            assert proxy.log.count("OpenTelemetry") == 1


def test_a_sampler_that_wants_nothing_is_obeyed(monkeypatch: pytest.MonkeyPatch, running: Traced) -> None:
    for name, value in (*OVER_HTTP, ("OTEL_TRACES_SAMPLER", "always_off")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", running.receiver.url)  # instead of the option
    with Backend("decode") as decode, Proxy([decode.url], [decode.url]) as proxy:
        proxy.wait_health("decode", True)
        trace, _, header = new_trace()
        answer = proxy.client.post("/v1/completions", json={"prompt": "hi"}, headers={"traceparent": header})
        assert answer.status_code == 200
        assert decode.seen[-1].headers["traceparent"].startswith(f"00-{trace}-")
        assert decode.seen[-1].headers["traceparent"].endswith("-00")
        proxy.process.send_signal(signal.SIGTERM)
        assert proxy.finish() == 0  # and what it had would have been sent
    assert running.receiver.of(trace) == []


def test_off_it_imports_nothing_and_contexts_pass_as_they_come() -> None:
    program = """
import sys
from kvdirect.router.app import create_app
from kvdirect.router.config import ProxyConfig
from starlette.testclient import TestClient
with TestClient(create_app(ProxyConfig(prefill=("http://127.0.0.1:1",), decode=("http://127.0.0.1:1",)))) as client:
    assert client.post("/v1/completions", json={"prompt": "hi"}).status_code == 503
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    _, environment = command("")
    environment = {name: value for name, value in environment.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    ("url", "protocol", "told"),
    [
        ("localhost:4317", "grpc", "is no URL of a receiver; expected http://HOST:4317"),
        ("http://h:4318/v1/traces", "grpc", "has a path, and gRPC has none"),
        ("http://h:4318", "http/protobuf", "has no path"),
        ("http://h:4318/v1/traces", "http/json", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL is 'http/json'; expected grpc"),
    ],
)
def test_an_endpoint_that_cannot_be_reached_so_is_refused_at_start(
    monkeypatch: pytest.MonkeyPatch, url: str, protocol: str, told: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", protocol)
    done = run_cli("proxy", "--prefill", GOOD, "--decode", GOOD, "--otlp-traces-endpoint", url)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert told in done.stderr
