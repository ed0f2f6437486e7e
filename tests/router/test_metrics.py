# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the router says about itself."""

import re
from pathlib import Path

from played_backend import Backend, Reply
from prometheus_client.parser import text_string_to_metric_families
from router_process import Proxy, Stack

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(proxy: Proxy) -> Samples:
    answer = proxy.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    families = list(text_string_to_metric_families(answer.text))
    assert all(family.documentation for family in families)
    return {
        (sample.name.removeprefix("kvdirect_router_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_metrics_follow_what_happens() -> None:
    with (
        Backend("prefill") as prefill,
        Backend("a") as a,
        Backend("b") as b,
        Proxy([prefill.url], [a.url, b.url]) as proxy,
    ):
        before = scrape(proxy)
        prefill.reply = Reply(params={"ticket": 1})
        a.reply = Reply(status=500)
        for _ in range(2):
            assert proxy.complete().json()["served_by"] == "b"
        proxy.client.post("/v1/chat/completions", content=b"{")
        proxy.wait_idle()
        after = scrape(proxy)
        changed = {key: after[key] - before[key] for key in after if after[key] != before[key]}
        status = proxy.state()

        assert changed[("requests_total", (("outcome", "ok"),))] == 2
        assert changed[("requests_total", (("outcome", "refused"),))] == 1
        assert changed[("prefills_total", (("outcome", "disaggregated"),))] == 2
        failed = changed[("retries_total", (("reason", "failed"),))]
        assert failed == 2
        assert changed[("prefills_total", (("outcome", "local_retry"),))] == failed
        assert changed[("instance_failures_total", (("instance", a.url), ("role", "decode")))] == failed
        assert changed[("instance_requests_total", (("instance", b.url), ("role", "decode")))] == 2
        assert changed[("request_seconds_count", (("endpoint", "completions"),))] == 2
        assert changed[("request_seconds_count", (("endpoint", "chat_completions"),))] == 1
        assert changed[("first_byte_seconds_count", (("endpoint", "completions"),))] == 2
        assert changed[("prefill_seconds_count", ())] == 2
        assert after[("in_flight", ())] == 0
        assert after[("instance_up", (("instance", a.url), ("role", "decode")))] == 1
        assert after[("instances", (("role", "decode"), ("state", "up")))] == 2
        for family, label in (("requests", "outcome"), ("prefills", "outcome"), ("retries", "reason")):
            for name, number in status["counters"][family].items():
                assert after[(f"{family}_total", ((label, name),))] == number


def test_clients_cannot_make_series(running: Stack) -> None:
    proxy = running.proxy
    before = set(scrape(proxy))
    for number in range(20):
        proxy.client.post(
            "/v1/completions",
            json={"model": f"model-{number}", "prompt": "p", "user": f"user-{number}"},
            headers={"X-Request-Id": f"id-{number}"},
        )
        proxy.client.get(f"/path-{number}")
    assert set(scrape(proxy)) == before


def test_every_metric_is_in_the_manual(running: Stack) -> None:

    manual = (Path(__file__).parents[2] / "docs" / "router.md").read_text()
    proxy = running.proxy
    counters = proxy.state()["counters"]
    for label in [name for family in counters.values() for name in family]:
        assert f"`{label.removeprefix('local_')}`" in manual, label
    for name in set(re.findall(r"^# TYPE kvdirect_router_(\w+)", proxy.client.get("/metrics").text, re.MULTILINE)):
        if not name.endswith("_created"):
            assert re.search(rf"_{name.removeprefix('instance_')}\b", manual), name
