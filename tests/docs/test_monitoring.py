# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The alert rules fire when they should, by Prometheus's own tool; they and the dashboard name what is there.

tests/vllm/test_eyes.py asks each query of a Prometheus that watches real engines.
"""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import outside
import pytest
import yaml
from documents import ROOT

MONITORING = ROOT / "deploy/monitoring"
RULES = [
    rule for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]


@pytest.mark.parametrize(
    "words",
    [("check", "config", "prometheus.yaml"), ("check", "rules", "alerts.yaml"), ("test", "rules", "alerts_test.yaml")],
)
def test_prometheus_takes_them(words: tuple[str, ...]) -> None:
    promtool = outside.program("promtool", "prometheus")
    done = subprocess.run([promtool, *words], cwd=MONITORING, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_seen_to_fire_and_not_to() -> None:
    tests = yaml.safe_load((MONITORING / "alerts_test.yaml").read_text())["tests"]
    checks = [check for test in tests for check in test["alert_rule_test"]]
    for name in [rule["alert"] for rule in RULES]:
        fires = [bool(check["exp_alerts"]) for check in checks if check["alertname"] == name]
        assert True in fires, name
        assert False in fires, name


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_waits_and_says_how_bad_it_is_and_where_help_is(rule: dict[str, Any]) -> None:
    assert re.fullmatch(r"\d+m", rule["for"])
    assert rule["labels"]["severity"] in {"warning", "critical"}
    page, _, anchor = rule["annotations"]["docs"].partition("#")
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_dashboard_can_be_imported_anywhere() -> None:
    text = (MONITORING / "grafana-dashboard.json").read_text()
    drawing = json.loads(text)
    assert drawing["uid"] is None
    assert drawing["id"] is None
    assert [variable["type"] for variable in drawing["templating"]["list"]] == ["datasource"]
    assert set(re.findall(r'"uid": "([^"]*)"', text)) == {"${datasource}"}
    ids = [panel["id"] for panel in drawing["panels"]]
    assert len(ids) == len(set(ids))
    for panel in drawing["panels"]:
        for target in panel.get("targets", []):
            windows = re.findall(r"\[(.*?)\]", target["expr"])
            assert set(windows) <= {"$__rate_interval"}, panel["title"]
