# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Pods behind llm-d: what lies in deploy/kubernetes-llm-d fits Kubernetes' schemas, our settings, and each other."""

from __future__ import annotations

import ipaddress
from typing import Any

import kubernetes_validate
import pytest
import yaml
from documents import ROOT
from programs import parse_kvdirect, parse_vllm
from test_manifests import POD_IP, RELEASES, option

from kvdirect.config import Settings, parse_settings

FOLDER = ROOT / "deploy/kubernetes-llm-d"
ROLES = {"prefill": "kv_producer", "decode": "kv_consumer"}


def objects() -> list[dict[str, Any]]:
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(path.name for path in FOLDER.glob("*.yaml"))
    return [item for name in listed for item in yaml.safe_load_all((FOLDER / name).read_text())]


def pod(role: str) -> dict[str, Any]:
    [found] = [item for item in objects() if item["metadata"]["name"] == f"llm-d-{role}"]
    spec: dict[str, Any] = found["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("release", RELEASES)
def test_the_schemas(release: str) -> None:
    for item in objects():
        kubernetes_validate.validate(item, release, strict=True)


@pytest.mark.parametrize("role", ROLES)
def test_an_engines_arguments(role: str) -> None:
    """As Kubernetes hands them over: with the pod's address in the place of $(POD_IP)."""
    [engine] = pod(role)["containers"]
    assert {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}} in engine["env"]
    words = [word.replace("$(POD_IP)", POD_IP) for word in engine["args"]]
    assert words != engine["args"]
    parse_kvdirect(words)
    config = parse_vllm(["--model", *words[1:]])
    assert config.kv_role == ROLES[role]
    settings = parse_settings(config.kv_connector_extra_config)
    settings.refuse_open_network()
    assert settings.host == POD_IP
    assert settings.listen != Settings().listen, "the default keeps the data on one host"
    assert any(ipaddress.ip_address(POD_IP) in ipaddress.ip_network(network) for network in settings.allow_hosts)
    [keys] = [volume["secret"] for volume in pod(role)["volumes"] if volume["name"] == "keys"]
    assert keys["secretName"] == f"{role}-keys", "made as docs/operations.md says"
    ports = {port["containerPort"] for port in engine["ports"]}
    assert ports == {int(option(words, "--port")), config.kv_port}


def test_the_sidecar_stands_before_the_decode_engine() -> None:
    [sidecar], [engine] = pod("decode")["initContainers"], pod("decode")["containers"]
    assert option(sidecar["args"], "--vllm-port") == option(engine["args"], "--port")
    [prefill] = pod("prefill")["containers"]
    assert option(sidecar["args"], "--port") == option(prefill["args"], "--port"), "llm-d names pods by one port"
    assert option(sidecar["args"], "--kv-connector") == "nixlv2"
    assert sidecar["restartPolicy"] == "Always"
