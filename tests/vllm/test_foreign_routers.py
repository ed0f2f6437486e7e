# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Other projects' routers in front of engines with our connector: the same tokens, pulled, and nothing left behind.

`vllm-router` and Dynamo's choice of a protocol are their own programs; the others are played (foreign_clients.py).
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from engines import (
    AGGREGATED,
    DECODE,
    PREFILL,
    Engine,
    block_bytes,
    blocks_to_move,
    completion_body,
    ended_leases,
    name,
    prefill,
    text,
    tokens,
    wait_until,
    wait_until_ended,
    wait_until_idle,
)
from foreign_clients import (
    Aibrix,
    Dynamo,
    Foreign,
    LlmdSidecar,
    LlmdSidecarInChunks,
    ProductionStack,
    ProductionStackBefore,
    ToyProxy,
    go_json,
    sonic_json,
    through_doubles,
)
from real_dynamo import dynamo_here
from test_topology import FILES_OWNER, FILES_READER
from vllm.config import KVTransferConfig

from kvdirect import plugin
from kvdirect.harness.http_client import event_data, http
from kvdirect.harness.processes import ManagedProcess, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx
    from engines import Spec
    from pool import EnginePool

pytestmark = [pytest.mark.vllm, pytest.mark.engines(AGGREGATED, PREFILL, DECODE)]

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
PLAYED: tuple[type[Foreign], ...] = (ToyProxy, ProductionStack, LlmdSidecar, Aibrix)


def completion(prompt: Any, **more: object) -> tuple[str, dict[str, Any]]:  # noqa: ANN401  (text or token ids)
    return COMPLETIONS, completion_body(prompt, 12, **more)


def chat(prompt: str, **more: object) -> tuple[str, dict[str, Any]]:
    """With the newer name of the limit, and characters that encoders treat differently."""
    messages = [{"role": "system", "content": "<b>&\u2028é"}, {"role": "user", "content": prompt}]
    body = completion_body("", 0, messages=messages, max_completion_tokens=12, **more)
    del body["prompt"], body["max_tokens"]
    return CHAT, body


def tokens_of(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    if not answer.headers["content-type"].startswith("text/event-stream"):
        answers = [answer.json()]
    else:
        assert answer.content.rstrip().endswith(b"data: [DONE]")
        answers = [json.loads(data) for data in event_data(answer)]
    return [token for one in answers for choice in one["choices"] for token in choice.get("token_ids") or ()]


class Watch:
    """What happens at both engines from here on."""

    def __init__(self, owner: Engine, reader: Engine) -> None:
        self.owner, self.reader = owner, reader
        self.before, self.completed = len(reader.pulls()), ended_leases(owner, "completed")

    def one_pull(self) -> dict[str, Any]:
        """The one pull that there was; what it was from has ended, and nothing is held."""
        [record] = self.reader.pulls()[self.before :]
        assert record["status"] == "ok", record
        wait_until_ended(self.owner, "completed", self.completed + 1)
        wait_until_idle(self.reader)
        return record


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kind", [completion, chat])
@pytest.mark.parametrize("router", PLAYED)
def test_played(pool: EnginePool, trio: list[Engine], router: type[Foreign], kind: Any, streamed: bool) -> None:  # noqa: ANN401
    aggregated, owner, reader = trio
    prompt = text(200)
    more = {"stream": True, "stream_options": {"include_usage": True}} if streamed else {"stream": False}
    path, body = kind(prompt, min_tokens=4, **more)
    expected = tokens_of(aggregated.post(path, body, name("reference")))
    assert len(expected) == 12
    watch = Watch(owner, reader)
    answer = router(owner.url, reader.url).ask(path, body, name("foreign"))
    assert tokens_of(answer) == expected
    record = watch.one_pull()
    if kind is completion:
        assert record["bytes"] == blocks_to_move(200) * block_bytes(pool)


def test_decode_in_chunks(trio: list[Engine]) -> None:
    """Of llm-d's sidecar: one engine that is asked so says the same, and what is pulled is pulled once."""
    aggregated, owner, reader = trio
    path, body = chat(text(200))
    sidecar = LlmdSidecarInChunks(owner.url, reader.url)
    headers = [("Content-Type", "application/json")]
    alone = sidecar.dispatch(aggregated.url + path, body | {"kv_transfer_params": None}, headers)
    assert alone.status_code == 200, alone.text
    expected = alone.json()["choices"][0]["message"]["content"]
    watch = Watch(owner, reader)
    answer = sidecar.ask(path, body, name("chunks"))
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == expected
    watch.one_pull()


@pytest.fixture(scope="module")
def vllm_router(pool: EnginePool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManagedProcess]:
    """The program in front of the two engines; with one of each there is nothing for it to choose."""
    owner, reader = pool.get(PREFILL, DECODE)
    with run_vllm_router(owner.url, reader.url, tmp_path_factory.mktemp("vllm-router")) as router:
        yield router


@contextlib.contextmanager
def run_vllm_router(prefill: str, decode: str, folder: Path) -> Iterator[ManagedProcess]:
    if importlib.util.find_spec("vllm_router") is None:
        pytest.skip("there is no vllm-router; `make test` installs it")
    port = free_port()
    command = [sys.executable, "-m", "vllm_router.launch_router", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--vllm-pd-disaggregation", "--prefill", prefill, "--decode", decode]
    command += ["--prometheus-port", str(free_port())]
    router = ManagedProcess("vllm-router", command, f"http://127.0.0.1:{port}", folder / "log")
    router.start()
    try:
        wait_until(router.ready, "vllm-router is up", 120.0)
        yield router
    finally:
        router.ask_to_stop()
        router.stop()


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kind", [completion, chat])
def test_vllm_router(
    pool: EnginePool,
    trio: list[Engine],
    vllm_router: ManagedProcess,
    kind: Any,  # noqa: ANN401
    streamed: bool,
) -> None:
    aggregated, owner, reader = trio
    path, body = kind(text(200), stream=streamed)
    expected = tokens_of(aggregated.post(path, body, name("reference")))
    watch = Watch(owner, reader)
    answer = http().post(vllm_router.url + path, json=body, timeout=120.0)
    assert tokens_of(answer) == expected
    record = watch.one_pull()
    if kind is completion:
        assert record["bytes"] == blocks_to_move(200) * block_bytes(pool)


def dynamos_protocol(*connectors: dict[str, Any]) -> Any:  # noqa: ANN401  (theirs)
    """What Dynamo's own code chooses for a prefill engine with these connectors, once vLLM has loaded our plugin."""
    config = connectors[0]
    if len(connectors) > 1:
        extra = {"connectors": list(connectors)}
        config = {"kv_connector": "MultiConnector", "kv_role": "kv_both", "kv_connector_extra_config": extra}
    with dynamo_here() as dynamo:
        plugin.register()
        return dynamo.make_kv_connector_protocol(SimpleNamespace(kv_transfer_config=KVTransferConfig(**config)))


OURS = {"kv_connector": "kvdirect", "kv_role": "kv_both"}
FILES = {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("pair", "connectors"),
    [
        pytest.param((PREFILL, DECODE), (OURS,), id="alone"),
        pytest.param(
            (FILES_OWNER, FILES_READER),
            (OURS, FILES),
            id="under MultiConnector",
            marks=pytest.mark.engines(AGGREGATED, FILES_OWNER, FILES_READER),
        ),
    ],
)
def test_dynamo(
    pool: EnginePool, pair: tuple[Spec, Spec], connectors: tuple[dict[str, Any], ...], streamed: bool
) -> None:
    aggregated, owner, reader = pool.get(AGGREGATED, *pair)
    ids = [3 + (i * 7 + len(reader.pulls())) % 250 for i in range(200)]
    path, body = completion(ids, stream=streamed)
    expected = tokens_of(aggregated.post(path, body, name("reference")))
    watch = Watch(owner, reader)
    answer = Dynamo(owner.url, reader.url, dynamos_protocol(*connectors)).ask(path, body, name("dynamo"))
    assert tokens_of(answer) == expected
    assert watch.one_pull()["bytes"] == blocks_to_move(200) * block_bytes(pool)


def test_a_host_that_decode_may_not_dial_costs_a_prefill_there(trio: list[Engine]) -> None:
    """As where production-stack's backends are the names of Services that `allow_hosts` lacks; the log says so."""
    aggregated, owner, reader = trio
    prompt, request_id = text(200), name("by-name")
    expected = tokens(aggregated.complete(prompt, name("reference")))
    failed, reason = "vllm:kvdirect_num_failed_transfers_total", "bad_params"
    refused, completed = reader.metric(failed, reason=reason), ended_leases(owner, "completed")
    ticket = prefill(owner, prompt, request_id)
    renamed = ticket | {"remote_host": "prefill.default.svc"}
    assert tokens(reader.complete(prompt, request_id, kv_transfer_params=renamed)) == expected
    assert reader.pulls(request_id) == []
    wait_until(lambda: reader.metric(failed, reason=reason) == refused + 1, "the refusal is counted")
    assert "'prefill.default.svc' is neither loopback nor ours nor in allow_hosts" in reader.log
    reader.complete(prompt, name("given back"), max_tokens=1, kv_transfer_params=ticket)
    wait_until_ended(owner, "completed", completed + 1)


def test_a_router_that_sends_no_ticket_leaves_nothing_behind(trio: list[Engine]) -> None:
    aggregated, owner, reader = trio
    path, body = completion(text(200))
    expected = tokens_of(aggregated.post(path, body, name("reference")))
    pulls = len(reader.pulls())
    assert tokens_of(ProductionStackBefore(owner.url, reader.url).ask(path, body, name("before"))) == expected
    assert len(reader.pulls()) == pulls
    wait_until_idle(owner, reader)


def test_what_is_played_is_written_as_go_writes_it() -> None:
    """Expected by hand, from the rules of encoding/json and strconv."""
    sent = through_doubles({"b": [1, 0.5, 1e-7, 2**63, 1e21], "a": {"<&>": None, "x": True}, "\u2028": "é"})
    go, sonic = go_json(sent).decode(), sonic_json(sent).decode()
    assert go == r'{"a":{"\u003c\u0026\u003e":null,"x":true},"b":[1,0.5,1e-7,9223372036854776000,1e+21],"\u2028":"é"}'
    assert sonic == '{"\u2028":"é","a":{"x":true,"<&>":null},"b":[1,0.5,1e-7,9223372036854776000,1e+21]}'
