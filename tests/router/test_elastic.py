# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Instances that change their role while requests run: because they are told to, or by what the router measures."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from played_backend import Backend, wait_until
from router_process import Proxy, run_cli
from test_rolling import PATIENCE, TOKEN, EngineProcess, Fleet, Load

from kvdirect.router.config import ProxyConfig
from kvdirect.router.counts import CountTable
from kvdirect.router.elastic import Elastic
from kvdirect.router.fleet import Fleet as RouterFleet
from kvdirect.router.prefill_meter import PrefillMeter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o600)
    return path


@pytest.fixture
def fleet(token: Path) -> Iterator[Fleet]:
    fleet = Fleet(token)
    yield fleet
    fleet.close()


def roles(fleet: Fleet) -> dict[str, list[str]]:
    """The roles of each URL."""
    found: dict[str, list[str]] = {}
    for item in fleet.call("GET")["instances"]:
        found.setdefault(item["url"], []).append(item["role"])
    return found


def test_roles_change_to_and_fro_under_load_and_no_client_notices(fleet: Fleet) -> None:
    moved = fleet.engines[3]
    with Load(fleet.proxy.url, streams=True) as load:
        load.wait_more(40)
        for role in ("prefill", "decode", "prefill"):
            told = fleet.call("POST", "/role", json={"url": moved.url, "role": role})["instances"]
            assert (told[0]["role"], told[0]["state"]) == (role, "up")
            wait_until(lambda: roles(fleet)[moved.url] == [role], "the old role to end", PATIENCE)  # noqa: B023
            load.wait_more(40)
    assert load.wrong == []
    fleet.proxy.wait_idle()
    assert fleet.counters("requests") == {"ok": load.answered}
    assert fleet.counters("retries") == {}
    assert fleet.counters("role_changes") == {"prefill": 2, "decode": 1}


def test_the_command_waits_until_the_old_role_has_ended(fleet: Fleet, token: Path) -> None:
    moved = fleet.engines[3]
    words = ("--router", fleet.proxy.url, "--token-file", str(token), "--wait", "30")
    done = run_cli("instances", "role", moved.url, "--role", "prefill", *words)
    assert done.returncode == 0, done.stderr
    assert [line.split()[:3] for line in done.stdout.splitlines()[1:]] == [
        ["prefill", moved.url, "up"],
        ["decode", moved.url, "left"],
    ]
    assert roles(fleet)[moved.url] == ["prefill"]


def test_a_role_that_it_has_already_is_no_change(fleet: Fleet) -> None:
    one = fleet.engines[0]
    told = fleet.call("POST", "/role", json={"url": one.url, "role": one.role})["instances"]
    assert [(item["role"], item["state"]) for item in told] == [(one.role, "up")]
    assert fleet.counters("role_changes") == {}


def test_what_cannot_change_its_role_is_named(token: Path) -> None:
    with (
        Backend("only") as only,
        Backend("sick") as sick,
        Proxy([sick.url], [only.url], "--admin-token-file", str(token)) as proxy,
    ):

        def ask(url: str, role: str) -> tuple[int, str]:
            answer = proxy.client.post(
                "/admin/instances/role", json={"url": url, "role": role}, headers={"authorization": f"Bearer {TOKEN}"}
            )
            return answer.status_code, answer.json()["error"]["message"]

        assert ask(only.url, "prefill") == (
            409,
            f"{only.url} is the last decode instance that is up; without one no request is answered",
        )
        assert ask("http://127.0.0.1:9", "prefill")[0] == 404
        sick.health = 503
        proxy.wait_health("prefill", False)
        assert ask(sick.url, "decode") == (409, f"{sick.url} is not up: /health answered 503")
        assert [item["role"] for item in proxy.state()["instances"]] == ["prefill", "decode"]


@pytest.mark.parametrize(
    ("requests", "given", "wanted"),
    [("1", ["prefill", "prefill", "decode"], "decode"), ("1000", ["prefill", "decode", "decode"], "prefill")],
    ids=["decode is pressed", "prefill is pressed"],
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_router_moves_an_instance_to_the_role_that_is_pressed(
    requests: str, given: list[str], wanted: str, workers: str
) -> None:
    engines = [EngineProcess(f"{role}-{number}", role) for number, role in enumerate(given)]
    urls = {role: [one.url for one in engines if one.role == role] for role in ("prefill", "decode")}
    options = ("--elastic", "--elastic-decode-requests", requests, "--workers", workers)
    try:
        with Proxy(urls["prefill"], urls["decode"], *options) as proxy, Load(proxy.url, streams=False) as load:
            wait_until(lambda: len(proxy.instances(wanted)) == 2, f"a second {wanted} instance", PATIENCE)
            load.wait_more(20)
            assert proxy.counter("role_changes", wanted) == 1
        assert load.wrong == []
    finally:
        for one in engines:
            one.close()


def test_a_prefill_takes_the_time_that_its_instance_was_busy_for_it() -> None:
    """Ten a second of 50 ms each, one after the other: half an instance's work, and what waits is a queue."""
    config = ProxyConfig(prefill=("http://127.0.0.1:1",), decode=("http://127.0.0.1:2",))
    fleet = RouterFleet(config, CountTable(config))
    fleet.begin()
    [instance] = fleet.prefill
    meter = PrefillMeter()
    for step in range(400):  # 20 s in steps of 50 ms
        if step % 2 == 0:
            held = instance.held()
            held.__enter__()
        else:
            held.__exit__(None, None, None)
        load = meter.look(step * 0.05, fleet.prefill, 1)
    assert load.work == pytest.approx(0.5, rel=0.1)
    assert load.queue == 0
    with instance.held(), instance.held(), instance.held():
        assert meter.look(20.0, fleet.prefill, 1).queue == pytest.approx(2 * 0.05, rel=0.1)


@pytest.mark.parametrize(("decoding", "wanted"), [(0, "prefill"), (30, None)])
def test_requests_that_wait_for_their_prefill_do_not_count_as_decoding(decoding: int, wanted: str | None) -> None:
    """Twelve wait for one instance, which prefills one in half a second, and two have next to nothing to decode."""
    urls = [f"http://127.0.0.1:{port}" for port in (1, 2, 3)]
    config = ProxyConfig(prefill=(urls[0],), decode=(urls[1], urls[2]), elastic_decode_requests=5)
    fleet = RouterFleet(config, CountTable(config))
    fleet.begin()
    for instance in fleet:
        instance.passed()
    elastic = Elastic(config, fleet, lambda _role: None)
    [prefill] = fleet.prefill
    with contextlib.ExitStack() as held:
        for number in range(12 + decoding):
            held.enter_context(list(fleet.decode)[number % 2].held())
        queue = [prefill.held() for _ in range(12)]
        for one in queue:
            one.__enter__()
        found = None
        for step in range(40):  # 10 s
            if step % 2:
                queue.pop(0).__exit__(None, None, None)
                queue.append(prefill.held())
                queue[-1].__enter__()
            found = found or elastic.look(step * 0.25)
        for one in queue:
            one.__exit__(None, None, None)
    assert found == wanted
