# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What is listed can be asked for, and adapters are loaded everywhere or it is said where not."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from played_backend import DEADLINE, Backend, Reply, wait_until
from router_process import Proxy

TOKEN = "an-admin-token-of-some-length"  # noqa: S105
MISSING = Reply(
    status=404,
    json={
        "error": {
            "message": "The model `tuned` does not exist.",
            "type": "NotFoundError",
            "param": "model",
            "code": 404,
        }
    },
)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Proxy, Backend, Backend]]:
    """A proxy with two decode instances, of which the second has one model more, and the first is asked first."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    with (
        Backend("first") as first,
        Backend("second") as second,
        Proxy(
            [first.url], [first.url, second.url], "--admin-token-file", str(token), "--health-interval", "0.5"
        ) as proxy,
    ):
        first.models, second.models = ["base"], ["base", "tuned"]
        first.reply = second.reply = Reply(params={"ticket": 1})
        yield proxy, first, second


def completions(backend: Backend) -> int:
    """How many requests it got as a decode instance."""
    asked = [seen for seen in backend.seen if seen.path == "/v1/completions"]
    return sum(seen.body.get("kv_transfer_params", {}).get("do_remote_decode") is None for seen in asked)


def test_every_model_is_listed_once_and_goes_to_who_has_it(pair: tuple[Proxy, Backend, Backend]) -> None:
    proxy, first, second = pair
    answer = proxy.client.get("/v1/models").json()
    assert [entry["id"] for entry in answer["data"]] == ["base", "tuned"]
    assert answer["object"] == "list"
    for _ in range(4):
        assert proxy.complete(model="tuned").status_code == 200
    assert (completions(first), completions(second)) == (0, 4)
    for _ in range(4):
        proxy.complete(model="base")
    assert completions(first) == 2


def test_who_lacks_a_model_says_so_and_another_one_answers(pair: tuple[Proxy, Backend, Backend]) -> None:
    """Without anybody having asked for the list."""
    proxy, first, second = pair
    first.reply = MISSING
    answer = proxy.client.post("/v1/completions", json={"model": "tuned", "prompt": ["a", "b"]})
    assert answer.json()["served_by"] == "second"
    assert proxy.state()["counters"]["retries"]["no_model"] == 1
    assert proxy.client.post("/v1/completions", json={"model": "tuned", "prompt": ["a", "b"]}).status_code == 200
    assert (completions(first), completions(second)) == (1, 2)


def test_many_at_once_learn_together_who_has_the_model(pair: tuple[Proxy, Backend, Backend]) -> None:
    proxy, first, second = pair
    first.reply, second.lists_after = MISSING, 0.5

    def ask(_: int) -> int:
        body = {"model": "tuned", "prompt": ["a", "b"]}
        return httpx.post(f"{proxy.url}/v1/completions", json=body, timeout=30, trust_env=False).status_code

    with ThreadPoolExecutor(16) as clients:
        assert list(clients.map(ask, range(16))) == [200] * 16
    assert sum(seen.path == "/v1/models" for seen in second.seen) == 1


def test_who_may_not_see_the_lists_takes_nothing_from_others(pair: tuple[Proxy, Backend, Backend]) -> None:
    proxy, first, second = pair
    proxy.client.get("/v1/models")
    first.models = second.models = [{"unreadable": 1}]  # type: ignore[list-item]
    proxy.client.get("/v1/models")
    assert proxy.complete(model="tuned").status_code == 200
    assert (completions(first), completions(second)) == (0, 1)


def test_a_model_that_nobody_has_is_answered_as_the_engine_does(pair: tuple[Proxy, Backend, Backend]) -> None:
    proxy, first, second = pair
    second.models = ["base"]
    first.reply = second.reply = MISSING
    for _ in range(3):
        answer = proxy.client.post("/v1/completions", json={"model": "tuned", "prompt": ["a", "b"]})
        assert answer.json() == MISSING.json
    lists = [seen for seen in first.seen if seen.path == "/v1/models"]
    assert len(lists) <= 2  # not one for each
    assert proxy.outcomes() == {"refused_by_instance": 3}


def test_a_model_whose_instances_are_out_is_not_listed(pair: tuple[Proxy, Backend, Backend]) -> None:
    proxy, _, second = pair
    second.stop()
    proxy.wait_health("decode", True, False)
    assert [entry["id"] for entry in proxy.client.get("/v1/models").json()["data"]] == ["base"]


def test_a_list_that_cannot_be_read_is_left_out(pair: tuple[Proxy, Backend, Backend]) -> None:
    proxy, first, _ = pair
    first.models = [{"deep": 1}]  # type: ignore[list-item]
    assert [entry["id"] for entry in proxy.client.get("/v1/models").json()["data"]][-1] == "tuned"


ADAPTER = {"lora_name": "tuned", "lora_path": "/adapters/tuned"}


@pytest.mark.parametrize("what", ["load", "unload"])
def test_an_adapter_is_loaded_at_every_instance_once(pair: tuple[Proxy, Backend, Backend], what: str) -> None:
    proxy, first, second = pair
    path = f"/v1/{what}_lora_adapter"
    for headers, status in (({}, 401), ({"authorization": "Bearer not-the-token"}, 401)):
        assert proxy.client.post(path, json=ADAPTER, headers=headers).status_code == status
    assert first.seen == second.seen == []
    answer = proxy.client.post(path, json=ADAPTER, headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200
    assert {item["url"] for item in answer.json()["instances"]} == {first.url, second.url}
    for backend in (first, second):
        assert (backend.only.path, backend.only.body) == (path, ADAPTER)
        assert "authorization" not in backend.only.headers  # the token is the router's


def test_who_fails_to_load_an_adapter_is_named(pair: tuple[Proxy, Backend, Backend]) -> None:
    proxy, _, second = pair
    second.reply = Reply(status=400, raw=b"no such folder")
    headers = {"authorization": f"Bearer {TOKEN}"}
    answer = proxy.client.post("/v1/load_lora_adapter", json=ADAPTER, headers=headers)
    assert answer.status_code == 502
    assert f"1 of 2 instances did not do it: {second.url}: no such folder" in answer.json()["error"]["message"]
    assert [item["status"] for item in answer.json()["instances"]] == [200, 400]
    second.stop()
    answer = proxy.client.post("/v1/load_lora_adapter", json=ADAPTER, headers=headers)
    assert answer.status_code == 502
    assert "cannot be reached" in answer.json()["error"]["message"]


def test_a_stop_waits_for_a_list_that_is_being_made() -> None:
    with Backend("decode") as decode, Proxy([decode.url], [decode.url]) as proxy, ThreadPoolExecutor(1) as pool:
        decode.lists_after = 1.5
        asked = pool.submit(proxy.client.get, "/v1/models")
        wait_until(lambda: proxy.instances("decode")[0]["in_flight"] == 1, "it to be asked")
        proxy.process.terminate()
        assert asked.result(DEADLINE).status_code == 200
        assert proxy.finish() == 0


def test_a_stop_waits_for_adapters_that_are_being_loaded(pair: tuple[Proxy, Backend, Backend]) -> None:
    proxy, first, second = pair
    second.reply = Reply(hold=True)
    headers = {"authorization": f"Bearer {TOKEN}"}
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(proxy.client.post, "/v1/load_lora_adapter", json=ADAPTER, headers=headers)
        wait_until(lambda: len(first.seen) == len(second.seen) == 1, "both to be asked")
        proxy.process.terminate()
        wait_until(lambda: proxy.state()["status"] == "draining", "it to drain")
        assert not asked.done()
        second.gate.set()
        answer = asked.result(DEADLINE)
    assert answer.status_code == 200
    assert [item["status"] for item in answer.json()["instances"]] == [200, 200]
    assert proxy.finish() == 0
