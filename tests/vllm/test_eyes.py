# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What operators look at, of a real run: every query of the dashboard, every alert's expression, and `kvdirect top`."""

from __future__ import annotations

import contextlib
import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import outside
import pytest
import yaml
from engines import AGGREGATED, DECODE, HOST_LANE, PREFILL, completion_body, name, prefill, text

from kvdirect.harness.http_client import http
from kvdirect.harness.processes import ManagedProcess, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engines import Engine

pytestmark = [pytest.mark.vllm, pytest.mark.engines(AGGREGATED, PREFILL, DECODE)]
MONITORING = Path(__file__).resolve().parents[2] / "deploy/monitoring"
DEADLINE = 180.0
# What Grafana would put there is four scrapes; here everything that the test did is to be in it.
WINDOW = "3m"


@pytest.fixture
def prometheus(routed: str, owner: Engine, reader: Engine, tmp_path: Path) -> Iterator[str]:
    """The URL of one that scrapes them every second."""
    program = outside.program("prometheus", "prometheus")
    port = free_port()

    def job(job_name: str, *urls: str) -> dict[str, Any]:
        return {"job_name": job_name, "static_configs": [{"targets": [url.removeprefix("http://") for url in urls]}]}

    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [job("kvdirect-router", routed), job("vllm", owner.url, reader.url)],
    }
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    words = [program, f"--config.file={tmp_path / 'prometheus.yaml'}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    url = f"http://127.0.0.1:{port}"
    process = ManagedProcess("prometheus", [*words, f"--web.listen-address=127.0.0.1:{port}"], url, tmp_path / "log")
    process.start()
    try:
        end = time.monotonic() + DEADLINE
        while not ready(process):
            assert time.monotonic() < end, process.last_words()
            time.sleep(0.1)
        yield url
    finally:
        process.ask_to_stop()
        process.stop()


def ready(process: ManagedProcess) -> bool:
    process.check()
    with contextlib.suppress(httpx.HTTPError):
        return http().get(f"{process.url}/-/ready", timeout=5.0).status_code == 200
    return False


def values(prometheus: str, query: str) -> list[float]:
    """What a query comes to now: the number of each series."""
    answer = http().get(f"{prometheus}/api/v1/query", params={"query": query}, timeout=10.0).json()
    assert answer["status"] == "success", f"{query}: {answer}"
    return [float(series["value"][1]) for series in answer["data"]["result"]]


def dashboard() -> list[tuple[str, str]]:
    drawing = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    return [
        (panel["title"], target["expr"].replace("$__rate_interval", WINDOW))
        for panel in drawing["panels"]
        for target in panel.get("targets", [])
    ]


def compared() -> list[tuple[str, str]]:
    """The two sides of every alert's comparison: a rule over a series that is not there would never fire."""
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    sides = []
    for rule in [rule for group in groups for rule in group["rules"]]:
        for part in re.split(r" and ", rule["expr"]):
            left, right = re.split(r" (?:==|>) ", part)
            sides += [(rule["alert"], left), (rule["alert"], right.partition(" * ")[2] or "vector(0)")]
    return sides


def use(routed: str, owner: Engine, reader: Engine) -> None:
    """Requests that go well, and some of each kind that does not."""
    for _ in range(3):
        body = completion_body(text(100), 4)
        assert http().post(f"{routed}/v1/completions", json=body, timeout=120.0).status_code == 200
    http().post(f"{routed}/v1/completions", content=b"{", timeout=10.0)
    ticket = prefill(owner, text(80), name("forged"))
    reader.complete(text(80), name("forged"), max_tokens=1, kv_transfer_params=ticket)  # for another prompt


def test_every_query_of_the_dashboard_and_the_alerts_finds_data(
    prometheus: str, routed: str, owner: Engine, reader: Engine
) -> None:
    queries = dashboard() + compared()
    assert len(queries) > 50
    end = time.monotonic() + DEADLINE
    while True:
        use(routed, owner, reader)
        time.sleep(1.5)
        found = {query: values(prometheus, query) for _, query in queries}
        empty = [(title, query) for title, query in queries if not any(map(math.isfinite, found[query]))]
        if not empty:
            break
        assert time.monotonic() < end, "\n".join(f"{title}: {query} has {found[query]}" for title, query in empty)
    moving = {title for title, query in queries if any(value > 0 for value in found[query])}
    assert moving >= {
        *(
            "Requests a second",
            "How requests end",
            "First byte, at the router",
            "Instances up",
            "Prefilled apart, share",
        ),
        *(
            "Bytes a second, by lane",
            "Pulls a second, by lane",
            "Time of a pull, by lane",
            "Failed or refused, by reason",
        ),
        *("How leases end", "Time to first token, at the engines", "Prompt tokens, by source"),
    }


def test_top_shows_a_real_run(routed: str, owner: Engine, reader: Engine) -> None:
    use(routed, owner, reader)
    words = ["top", "--once", "--timeout", "20", "--router", routed]
    done = subprocess.run(
        [sys.executable, "-m", "kvdirect", *words], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^prefill +{owner.url} +up ", done.stdout, re.MULTILINE), done.stdout
    assert re.search(rf"^{reader.url} +{HOST_LANE} +[1-9]", done.stdout, re.MULTILINE), done.stdout
    assert re.search(rf"^{owner.url} +\d+ +[1-9]", done.stdout, re.MULTILINE), done.stdout
    assert re.search(rf"^{reader.url} +pull or ticket refused +other_prompt +[1-9]", done.stdout, re.MULTILINE)
