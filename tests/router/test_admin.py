# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Instances that join, drain and leave at run time, and who may make them."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from played_backend import DEADLINE, Backend, Reply, wait_until
from router_process import Proxy, Stack, run_cli

from kvdirect.router.admin import MOST_WRONG_TOKENS, WRONG_TOKEN_SECONDS

TOKEN = "0123456789abcdef-the-token"  # noqa: S105 (of these tests)
BEARER = {"authorization": f"Bearer {TOKEN}"}
LOCAL = {"prompt": ["a", "b"]}  # goes to decode alone
ADMIN = "/admin/instances"


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("admin") / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def empty(token_file: Path) -> Iterator[Proxy]:
    """A proxy that starts with nobody behind it."""
    with Proxy([], [], "--admin-token-file", str(token_file), "--max-instances", "4") as proxy:
        yield proxy


@pytest.fixture
def proxy(empty: Proxy) -> Iterator[Proxy]:
    yield empty
    for item in empty.state()["instances"]:
        call(empty, "DELETE", params={"url": item["url"], "role": item["role"]})


def call(proxy: Proxy, method: str, path: str = ADMIN, **what: Any) -> httpx.Response:  # noqa: ANN401 (httpx's)
    return proxy.client.request(method, path, headers=BEARER, **what)


def join(proxy: Proxy, backend: Backend, role: str = "decode") -> httpx.Response:
    return call(proxy, "POST", json={"url": backend.url, "role": role})


def drain(proxy: Proxy, backend: Backend, **more: object) -> httpx.Response:
    return call(proxy, "POST", f"{ADMIN}/drain", json={"url": backend.url, **more})


def states(proxy: Proxy) -> dict[str, str]:
    return {item["url"]: item["state"] for item in call(proxy, "GET").json()["instances"]}


def cli(proxy: Proxy, token_file: Path, action: str, *words: str) -> Any:  # noqa: ANN401 (a process or its JSON)
    done = run_cli("instances", action, *words, "--router", proxy.url, "--token-file", str(token_file), "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


CALLS = [
    ("GET", ADMIN, None),
    ("POST", ADMIN, {"url": "http://127.0.0.1:1", "role": "decode"}),
    ("POST", f"{ADMIN}/drain", {"url": "http://127.0.0.1:1"}),
    ("DELETE", f"{ADMIN}?url=http://127.0.0.1:1", None),
]


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": f"Bearer {TOKEN[:-1]}"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": TOKEN},
        {"x-token": TOKEN},
    ],
)
def test_nothing_without_the_token(proxy: Proxy, method: str, path: str, body: object, headers: dict[str, str]) -> None:
    answer = proxy.client.request(method, path, json=body, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "Authorization: Bearer" in answer.json()["error"]["message"]
    assert proxy.state()["instances"] == []
    assert TOKEN not in proxy.log


def test_guesses_are_slow_and_cost_a_line_a_second(proxy: Proxy) -> None:
    """From one address; whoever has the token is served as before."""
    lines, began = proxy.log.count("without the right token"), time.monotonic()
    with ThreadPoolExecutor(16) as guessers:

        def guess(number: int) -> int:
            headers = {"authorization": f"Bearer {number:032}"}
            return proxy.client.get(ADMIN, headers=headers).status_code

        found = Counter(guessers.map(guess, range(200)))
    seconds = time.monotonic() - began
    assert set(found) == {401, 429}
    assert found[401] <= MOST_WRONG_TOKENS * (seconds / WRONG_TOKEN_SECONDS + 1)
    assert proxy.client.get(ADMIN, headers=BEARER).status_code == 200
    assert proxy.log.count("without the right token") - lines <= seconds + 2
    began = time.monotonic()
    assert guess(1) == 401
    assert time.monotonic() - began >= WRONG_TOKEN_SECONDS


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_a_router_without_a_token_refuses_all_of_it(running: Stack, method: str, path: str, body: object) -> None:
    for headers in ({}, BEARER, {"authorization": "Bearer"}, {"authorization": "Bearer None"}):
        answer = running.proxy.client.request(method, path, json=body, headers=headers)
        assert answer.status_code == 403
        assert "--admin-token-file" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"role": "decode"}, "url is None"),
        ({"url": 7, "role": "decode"}, "url is 7"),
        ({"url": "http://h:1"}, "role is None"),
        ({"url": "http://h:1", "role": "both"}, "role is 'both'"),
        ({"url": "http://h:1", "role": ["decode"]}, "role is ['decode']"),
        ({"url": "h:1", "role": "decode"}, "decode URL 'h:1'"),
        ({"url": "ftp://h:1", "role": "decode"}, "ftp"),
        ({"url": "http://h:1/v1", "role": "decode"}, "leave out the /v1"),
        ({"url": "http://u:hunter2@h:1", "role": "decode"}, "password"),
        ({"url": "http://h:99999", "role": "decode"}, "99999"),
        ({"url": "http://h:1", "role": "decode", "rolle": 1}, "unknown key 'rolle'"),
        ([1], "expected a JSON object"),
    ],
)
def test_bad_input_is_a_400_that_names_it(proxy: Proxy, body: object, words: str) -> None:
    answer = call(proxy, "POST", json=body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]
    assert "hunter2" not in answer.text
    assert proxy.state()["instances"] == []


def test_bad_drains_and_leaves(proxy: Proxy) -> None:
    gone = {"url": "http://127.0.0.1:1"}
    assert call(proxy, "POST", f"{ADMIN}/drain", json=gone).status_code == 404
    assert call(proxy, "DELETE", params=gone).status_code == 404
    assert call(proxy, "DELETE").status_code == 400
    assert call(proxy, "DELETE", params={**gone, "rol": "decode"}).status_code == 400
    assert call(proxy, "POST", f"{ADMIN}/drain", json={**gone, "remove": "no"}).status_code == 400
    assert call(proxy, "POST", content=b"x" * 20000).status_code == 413
    assert call(proxy, "PUT").status_code == 405


def test_an_instance_joins_serves_and_leaves(proxy: Proxy) -> None:
    assert proxy.client.get("/health").status_code == 503
    refused = proxy.complete()
    assert refused.status_code == 503
    assert "none has joined" in refused.json()["error"]["message"]
    with Backend("one") as one:
        joined = join(proxy, one)
        assert joined.status_code == 201
        assert joined.json()["instances"][0]["state"] == "up"  # it was checked before the answer
        assert proxy.complete().json()["served_by"] == "one"
        assert proxy.client.get("/health").json() == {"status": "degraded"}
        assert join(proxy, one, "prefill").status_code == 201
        assert proxy.client.get("/health").json() == {"status": "ok"}
        again = call(proxy, "POST", json={"url": one.url + "/", "role": "decode"})
        assert again.status_code == 200
        assert len(proxy.state()["instances"]) == 2
        proxy.wait_idle()
        left = call(proxy, "DELETE", params={"url": one.url, "role": "decode"})
        assert left.status_code == 200
        assert [(item["role"], item["state"]) for item in left.json()["instances"]] == [("decode", "drained")]
        assert proxy.complete().status_code == 503
        seen = len(one.seen)
        call(proxy, "DELETE", params={"url": one.url})
        assert proxy.state()["instances"] == []
        assert len(one.seen) == seen


def test_an_instance_may_join_before_it_is_up(proxy: Proxy) -> None:
    with Backend("late") as late:
        late.health = 503
        joined = join(proxy, late).json()["instances"][0]
        assert joined["state"] == "down"
        assert "/health answered 503" in joined["error"]
        late.health = 200
        proxy.wait_health("decode", True)
        assert proxy.complete().json()["served_by"] == "late"


def test_strange_hosts_join_and_stay_down(proxy: Proxy) -> None:
    for url in ("http://a..b:1", "http://no-such-host.invalid:1"):
        joined = call(proxy, "POST", json={"url": url, "role": "decode"})
        assert joined.status_code in {201, 400}, joined.text
        assert proxy.complete().status_code == 503


def test_the_number_of_instances_is_bounded(proxy: Proxy) -> None:
    for port in range(1, 5):
        assert call(proxy, "POST", json={"url": f"http://127.0.0.1:{port}", "role": "decode"}).status_code == 201
    refused = call(proxy, "POST", json={"url": "http://127.0.0.1:5", "role": "decode"})
    assert refused.status_code == 409
    assert "--max-instances" in refused.json()["error"]["message"]
    assert call(proxy, "POST", json={"url": "http://127.0.0.1:4", "role": "decode"}).status_code == 200


def test_draining_finishes_what_runs_takes_nothing_new_and_leaves(proxy: Proxy) -> None:
    with Backend("old") as old, Backend("new") as new:
        old.reply = Reply(hold=True)
        join(proxy, old)
        with httpx.stream(
            "POST", f"{proxy.url}/v1/completions", json={**LOCAL, "stream": True}, timeout=DEADLINE, trust_env=False
        ) as answer:
            chunks = answer.iter_raw()
            next(chunks)
            drained = drain(proxy, old)
            assert drained.status_code == 202
            shown = drained.json()["instances"][0]
            assert (shown["state"], shown["in_flight"]) == ("draining", 1)
            refused = proxy.complete()
            assert refused.status_code == 503
            assert f"{old.url}: draining" in refused.json()["error"]["message"]
            join(proxy, new)
            assert proxy.complete().json()["served_by"] == "new"
            assert states(proxy) == {old.url: "draining", new.url: "up"}
            old.gate.set()
            assert b"[DONE]" in b"".join(chunks)
        wait_until(lambda: states(proxy) == {new.url: "up"}, "the drained instance to leave")
        assert len(old.seen) == 1


def test_a_drained_instance_that_is_kept_can_join_again(proxy: Proxy) -> None:
    with Backend("one") as one:
        join(proxy, one)
        assert drain(proxy, one, remove=False).json()["instances"][0]["state"] == "drained"
        assert states(proxy) == {one.url: "drained"}
        assert proxy.complete().status_code == 503
        assert join(proxy, one).status_code == 200
        assert proxy.complete().json()["served_by"] == "one"


def test_a_join_stops_a_drain(proxy: Proxy) -> None:
    with Backend("one") as one:
        one.reply = Reply(hold=True)
        join(proxy, one)
        asking = threading.Thread(target=proxy.complete, kwargs=LOCAL)
        asking.start()
        wait_until(lambda: len(one.seen) == 1, "the request to arrive")
        drain(proxy, one)
        join(proxy, one)
        one.gate.set()
        asking.join(DEADLINE)
        proxy.wait_idle()
        assert states(proxy) == {one.url: "up"}


def test_a_prefill_instance_is_not_drained_while_its_cache_is_wanted(proxy: Proxy) -> None:
    """Its own answer is out, but the decode instance may still be reading its cache."""
    with Backend("prefill") as prefill, Backend("decode") as decode:
        prefill.reply = Reply(params={"ticket": 1})
        decode.reply = Reply(hold=True)
        join(proxy, prefill, "prefill")
        join(proxy, decode)
        asking = threading.Thread(target=proxy.complete)
        asking.start()
        wait_until(lambda: len(decode.seen) == 1, "decode to be asked")
        shown = drain(proxy, prefill).json()["instances"][0]
        assert (shown["state"], shown["in_flight"], shown["caches"]) == ("draining", 0, 1)
        decode.gate.set()
        asking.join(DEADLINE)
        wait_until(lambda: states(proxy) == {decode.url: "up"}, "the prefill instance to leave")


def test_a_request_on_an_instance_that_leaves_still_finishes(proxy: Proxy) -> None:
    with Backend("one") as one:
        one.reply = Reply(hold=True)
        join(proxy, one)
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(proxy.complete(**LOCAL)))
        asking.start()
        wait_until(lambda: len(one.seen) == 1, "the request to arrive")
        left = call(proxy, "DELETE", params={"url": one.url}).json()["instances"][0]
        assert (left["state"], left["in_flight"]) == ("draining", 1)
        one.gate.set()
        asking.join(DEADLINE)
        assert answers[0].json()["served_by"] == "one"
        proxy.wait_idle()


def test_the_command_line_client(proxy: Proxy, token_file: Path) -> None:
    with Backend("one") as one:
        assert cli(proxy, token_file, "list") == []
        assert cli(proxy, token_file, "join", one.url, "--role", "decode")[0]["state"] == "up"
        table = run_cli("instances", "list", "--router", proxy.url, "--token-file", str(token_file)).stdout
        assert table.splitlines()[0].split()[:3] == ["ROLE", "URL", "STATE"]
        assert table.splitlines()[1].split()[:3] == ["decode", one.url, "up"]

        one.reply = Reply(hold=True)
        asking = threading.Thread(target=proxy.complete, kwargs=LOCAL)
        asking.start()
        wait_until(lambda: len(one.seen) == 1, "the request to arrive")
        words = ("instances", "drain", one.url, "--router", proxy.url, "--token-file", str(token_file))
        late = run_cli(*words, "--wait", "0.6")
        assert late.returncode == 1
        assert late.stderr.count("\n") == 1
        assert f"decode {one.url}: 1 in flight" in late.stderr
        one.gate.set()
        asking.join(DEADLINE)
        assert cli(proxy, token_file, "join", one.url, "--role", "decode")[0]["state"] == "up"
        assert cli(proxy, token_file, "drain", one.url, "--keep", "--wait", "10")[0]["state"] == "drained"
        assert cli(proxy, token_file, "drain", one.url, "--wait", "10")[0]["state"] == "left"
        assert cli(proxy, token_file, "list") == []


def test_the_clients_errors_are_one_line(proxy: Proxy, token_file: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("not-the-token-at-all")
    short = tmp_path / "short"
    short.write_text("secret")
    for status, told, words in [
        (1, "401", ["list", "--router", proxy.url, "--token-file", str(wrong)]),
        (1, "404", ["leave", "http://127.0.0.1:1", "--router", proxy.url, "--token-file", str(token_file)]),
        (1, "no answer", ["list", "--router", "http://127.0.0.1:1", "--token-file", str(token_file)]),
        (2, "no usable token", ["list", "--router", proxy.url, "--token-file", str(short)]),
        (2, "No such file", ["list", "--router", proxy.url, "--token-file", "/nowhere"]),
        (2, "router URL", ["list", "--router", "x", "--token-file", str(token_file)]),
    ]:
        done = run_cli("instances", *words)
        assert (done.returncode, done.stderr.count("\n")) == (status, 1), done.stderr
        assert told in done.stderr
        assert "secret" not in done.stderr


def test_a_token_that_others_can_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o644)
    with Proxy([], [], "--admin-token-file", str(path)) as proxy:
        assert f"every user of this machine can read {path}" in proxy.log
        assert TOKEN not in proxy.log
