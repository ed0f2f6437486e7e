# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""API keys of the router: who gets in, with how much, what the instances are shown; and which web pages may ask."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from played_backend import Backend, Reply, wait_until
from router_process import Proxy, run_cli

ALICE, BOB, CAROL = (f"key-of-{name}-0123456789" for name in ("alice", "bob", "carol"))
KEYS = f"""\
# who may ask
{ALICE} name=alice max-in-flight=1

  {BOB} name=bob requests-per-minute=2
"""
INSTANCE_KEY = "short"
ADMIN = "an-admin-token-of-some-length"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, content in (("keys", KEYS), ("instance", INSTANCE_KEY), ("admin", ADMIN)):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o600)
    return tmp_path


@pytest.fixture
def guarded(files: Path) -> Iterator[tuple[Proxy, Backend]]:
    with (
        Backend("both") as both,
        Proxy(
            [both.url],
            [both.url],
            *("--api-key-file", str(files / "keys"), "--instance-key-file", str(files / "instance")),
            *("--admin-token-file", str(files / "admin")),
        ) as proxy,
    ):
        both.reply = Reply(params={"ticket": 1})
        yield proxy, both


def ask(proxy: Proxy, key: str, path: str = "/v1/completions", name: str = "authorization") -> int:
    headers = {name: f"Bearer {key}" if name == "authorization" else key} if key else {}
    body = {"prompt": "p", "messages": [], "max_tokens": 1}
    return proxy.client.post(path, json=body, headers=headers).status_code


def test_a_request_without_a_key_is_refused_in_the_form_of_its_api(guarded: tuple[Proxy, Backend]) -> None:
    proxy, both = guarded
    for path in ("/v1/completions", "/v1/responses", "/tokenize"):
        answer = proxy.client.post(path, content=b"not even read", headers={"authorization": "Bearer wrong"})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["type"] == "invalid_request_error"
    assert proxy.client.post("/v1/messages").json()["error"]["type"] == "authentication_error"
    assert proxy.client.get("/v1/models").status_code == proxy.client.get("/version").status_code == 401
    for open_path in ("/health", "/status", "/metrics"):
        assert proxy.client.get(open_path).status_code == 200
    assert both.seen == []


def test_instances_are_shown_the_routers_key_and_not_the_clients(guarded: tuple[Proxy, Backend]) -> None:
    proxy, both = guarded
    assert ask(proxy, ALICE) == 200
    assert ask(proxy, ALICE, "/v1/messages", "x-api-key") == 200
    headers = {"authorization": f"Bearer {ALICE}"}
    assert proxy.client.get("/v1/models", headers=headers).status_code == 200
    beside = {"authorization": "Basic YTpi", "x-api-key": ALICE}  # the first is another server's, on the way here
    assert proxy.client.get("/v1/models", headers=beside).status_code == 200
    admin = {"authorization": f"Bearer {ADMIN}"}
    assert proxy.client.post("/v1/load_lora_adapter", json={}, headers=admin).status_code == 200
    assert len(both.seen) == 7
    for seen in both.seen:
        assert seen.headers["authorization"] == f"Bearer {INSTANCE_KEY}"
        assert "x-api-key" not in seen.headers
    assert ALICE not in proxy.log + str(proxy.state())


def test_a_key_has_no_more_than_its_limits(guarded: tuple[Proxy, Backend]) -> None:
    proxy, both = guarded
    both.reply = Reply(params={"ticket": 1}, hold=True)
    asking = threading.Thread(target=ask, args=(proxy, ALICE))
    asking.start()
    wait_until(lambda: len(both.seen) == 1, "the first to be in flight")
    headers = {"authorization": f"Bearer {ALICE}"}
    answer = proxy.client.post("/v1/completions", json={"prompt": "p"}, headers=headers)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    both.gate.set()
    asking.join(10)
    both.reply = Reply(params={"ticket": 1})
    proxy.wait_idle()
    assert ask(proxy, ALICE) == 200
    assert [ask(proxy, BOB) for _ in range(3)] == [200, 200, 429]
    text = proxy.client.get("/metrics").text
    assert 'kvdirect_router_key_requests_total{key="bob"} 2.0' in text
    assert 'kvdirect_router_key_limited_total{key="bob"} 1.0' in text
    assert 'kvdirect_router_key_limited_total{key="alice"} 1.0' in text
    assert 'kvdirect_router_key_in_flight{key="alice"} 0.0' in text
    assert proxy.outcomes() == {"ok": 4, "limited": 2}


def test_keys_change_without_a_restart_and_a_bad_file_changes_nothing(
    guarded: tuple[Proxy, Backend], files: Path
) -> None:
    proxy, _ = guarded
    assert (ask(proxy, ALICE), ask(proxy, CAROL)) == (200, 401)
    (files / "keys").write_text("too-short name=alice\n")
    wait_until(lambda: ask(proxy, ALICE) == 200 and "cannot be used, the former stay" in proxy.log, "it to be refused")
    (files / "keys").write_text(f"{CAROL}\n")
    wait_until(lambda: ask(proxy, CAROL) == 200, "the new key")
    assert ask(proxy, ALICE) == 401
    assert "too-short" not in proxy.log


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "0 keys in it"),
        ("short", "line 1: no usable key"),
        (f"{ALICE} name=a\n{ALICE} name=b", "line 2: its key or its name is there twice"),
        (f"{ALICE} name=a\n{BOB} name=a", "line 2: its key or its name is there twice"),
        (f"{ALICE} max-in-flight=0", "max-in-flight=0; expected a number"),
        (f"{ALICE} speed=9", "expected name=, max-in-flight= or requests-per-minute="),
        (f'{ALICE} name="x"', "expected a name"),
    ],
)
def test_a_file_that_cannot_serve_is_named_and_no_key_of_it(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "keys").write_text(content)
    urls = ["--prefill", "http://127.0.0.1:1", "--decode", "http://127.0.0.1:2", "--port", "0"]
    done = run_cli("proxy", *urls, "--api-key-file", str(tmp_path / "keys"))
    assert done.returncode == 2
    assert told in done.stderr
    assert ALICE not in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--instance-key-file", "FILE"], "give clients keys"),
        (["--allowed-origins", "https://a/path"], "expected * or an origin"),
        (["--allowed-origins", "[1]"], "a JSON list of origins"),
        (["--ssl-keyfile", "FILE"], "without ssl_certfile"),
        (["--ssl-certfile", "FILE"], "cannot be used"),
        (["--api-key-file", "/nowhere"], "No such file"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(files: Path, words: list[str], told: str) -> None:
    given = [str(files / "instance") if word == "FILE" else word for word in words]
    urls = ["--prefill", "http://127.0.0.1:1", "--decode", "http://127.0.0.1:2", "--port", "0"]
    done = run_cli("proxy", *urls, *given)
    assert done.returncode == 2
    assert told in done.stderr


ORIGIN = "https://chat.example"
PREFLIGHT = {
    "origin": ORIGIN,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization",
}


@pytest.mark.parametrize("option", [ORIGIN, f'["{ORIGIN}"]'])
def test_pages_of_allowed_origins_may_ask_and_streams_stay_streams(option: str) -> None:
    with Backend("both") as both, Proxy([both.url], [both.url], "--allowed-origins", option) as proxy:
        preflight = proxy.client.options("/v1/chat/completions", headers=PREFLIGHT)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == ORIGIN
        other = proxy.client.options("/v1/chat/completions", headers={**PREFLIGHT, "origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        admin = proxy.client.options("/admin/instances", headers=PREFLIGHT)
        assert "access-control-allow-origin" not in admin.headers
        both.reply = Reply(hold=True)
        body = {"prompt": ["a", "b"], "stream": True}
        with proxy.client.stream("POST", "/v1/completions", json=body, headers={"origin": ORIGIN}) as answer:
            assert answer.headers["access-control-allow-origin"] == ORIGIN
            chunks = answer.iter_raw()
            assert b"first" in next(chunks)
            both.gate.set()
            assert b"[DONE]" in b"".join(chunks)


def test_no_page_may_ask_where_no_origin_is_given(guarded: tuple[Proxy, Backend]) -> None:
    proxy, _ = guarded
    answer = proxy.client.options("/v1/chat/completions", headers=PREFLIGHT)
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]
