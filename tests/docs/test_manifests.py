# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What lies in deploy/ fits Kubernetes' schemas and our own programs, and a pod's life works against a real router."""

from __future__ import annotations

import contextlib
import copy
import fcntl
import ipaddress
import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml
from documents import ROOT, blocks
from programs import parse_kvdirect, parse_vllm, running, shell, stand_in, start_router

from kvdirect.config import AUTO, Settings, parse_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

KUBERNETES = ROOT / "deploy/kubernetes"
SYSTEMD = ROOT / "deploy/systemd"
RELEASES = ("1.28", "1.37")  # the oldest that we think of, and the newest that the schemas know
POD_IP = "10.244.3.7"
Object = dict[str, Any]


def objects() -> list[Object]:
    """Everything that `kubectl apply -k deploy/kubernetes` would apply."""
    listed = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(path.name for path in KUBERNETES.glob("*.yaml"))
    return [item for name in listed for item in yaml.safe_load_all((KUBERNETES / name).read_text())]


OBJECTS = objects()
DEPLOYMENTS = {item["metadata"]["name"]: item for item in OBJECTS if item["kind"] == "Deployment"}
ENGINES = ("prefill", "decode")


def container(deployment: str, name: str) -> Object:
    found = [c for c in DEPLOYMENTS[deployment]["spec"]["template"]["spec"]["containers"] if c["name"] == name]
    assert len(found) == 1
    return dict(found[0])


def fields_of(thing: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every field; labels and the like may have any name."""
    if isinstance(thing, dict):
        for key, value in thing.items():
            if path[-1:] not in {("labels",), ("matchLabels",), ("selector",), ("requests",), ("limits",)}:
                yield (*path, key)
            yield from fields_of(value, (*path, key))
    elif isinstance(thing, list):
        for index, value in enumerate(thing):
            yield from fields_of(value, (*path, index))


@pytest.mark.parametrize("release", RELEASES)
def test_the_schemas(release: str) -> None:
    for item in OBJECTS:
        kubernetes_validate.validate(item, release, strict=True)


def test_a_misspelt_field_is_found() -> None:
    """One of each name: whether `readinessProbe` or `failureThreshold`, a wrong letter must not pass."""
    places = {path[-1]: (item, path) for item in OBJECTS for path in fields_of(item)}
    assert len(places) > 50
    for item, (*path, name) in places.values():
        spoilt: Any = copy.deepcopy(item)
        inside = spoilt
        for step in path:
            inside = inside[step]
        inside[f"{name}x"] = inside.pop(name)
        with pytest.raises((kubernetes_validate.ValidationError, KeyError)):
            kubernetes_validate.validate(spoilt, RELEASES[-1], strict=True)


@pytest.mark.parametrize(("name", "role"), [("prefill", "kv_producer"), ("decode", "kv_consumer")])
def test_an_engines_arguments(name: str, role: str) -> None:
    engine = container(name, "engine")
    words = engine["args"]
    assert not any("$(" in word for word in words)
    assert "POD_IP" in [variable["name"] for variable in engine["env"]], "the hook needs it"
    parse_kvdirect(words)
    config = parse_vllm(["--model", *words[1:]])
    assert config.kv_role == role
    settings = parse_settings(config.kv_connector_extra_config)
    assert settings.host == AUTO
    assert settings.listen != Settings().listen
    settings.refuse_open_network()
    assert mounted(name) >= {str(Path(settings.key_file).parent), str(Path(settings.peers_file).parent)}
    assert any(ipaddress.ip_address(POD_IP) in ipaddress.ip_network(network) for network in settings.allow_hosts)
    ports = {port["name"]: port["containerPort"] for port in engine["ports"]}
    assert ports == {"http": int(option(words, "--port")), "handshake": config.kv_port}


def mounted(name: str) -> set[str]:
    """Where an engine's container has volumes."""
    return {mount["mountPath"] for mount in container(name, "engine")["volumeMounts"]}


def option(words: list[str], name: str) -> str:
    """The value of the one argument `--name=value`."""
    [value] = [word.partition("=")[2] for word in words if word.startswith(f"{name}=")]
    return value


def test_engines_of_both_roles_are_the_same_but_for_the_role() -> None:
    texts = [(KUBERNETES / f"{name}.yaml").read_text() for name in ENGINES]
    prefill, decode = (
        text.replace(name, "ROLE").replace(name.capitalize(), "ROLE").replace(role, "KV_ROLE")
        for text, name, role in zip(texts, ENGINES, ("kv_producer", "kv_consumer"), strict=True)
    )
    assert prefill == decode


def test_the_routers_arguments() -> None:
    router = container("router", "router")
    parse_kvdirect(router["args"])
    spec = DEPLOYMENTS["router"]["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] > float(option(router["args"], "--drain-timeout"))


@pytest.mark.parametrize("name", ENGINES)
def test_a_pod_may_take_as_long_to_go_as_its_hook_and_vllm(name: str) -> None:
    engine = container(name, "engine")
    wait = int(re.search(r"--wait (\d+)", hook(name))[1])  # type: ignore[index]
    stop = int(option(engine["args"], "--shutdown-timeout"))
    assert DEPLOYMENTS[name]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > wait + stop


def hook(name: str) -> str:
    """The script of a pod's preStop hook."""
    words = container(name, "engine")["lifecycle"]["preStop"]["exec"]["command"]
    assert words[:2] == ["sh", "-c"]
    return str(words[2])


def test_services_and_policies_select_pods_that_exist() -> None:
    pods = [item["spec"]["template"]["metadata"]["labels"] for item in DEPLOYMENTS.values()]
    selectors = [item["spec"]["selector"] for item in OBJECTS if item["kind"] == "Service"]
    for item in OBJECTS:
        if item["kind"] != "NetworkPolicy":
            continue
        selectors.append(item["spec"]["podSelector"]["matchLabels"])
        peers = [peer for rule in item["spec"]["ingress"] for peer in rule["from"]]
        selectors += [peer["podSelector"]["matchLabels"] for peer in peers if "podSelector" in peer]
    for wanted in selectors:
        assert any(wanted.items() <= labels.items() for labels in pods), wanted


@pytest.mark.parametrize("name", ENGINES)
def test_a_pod_joins_drains_and_stays_away(name: str, tmp_path: Path) -> None:
    """The scripts of the manifest against a real router."""
    token, lock = tmp_path / "token", tmp_path / "join"
    token.write_text("0123456789abcdef" * 2)
    with contextlib.ExitStack() as stack:
        url = stand_in(stack, tmp_path, name)
        router = start_router(stack, f"kvdirect proxy --port 0 --admin-token-file {token}", tmp_path, tmp_path)

        def here(script: str) -> str:
            script = script.replace("http://${POD_IP}:8000", url).replace("http://router-admin:8000", router)
            script = script.replace("/etc/kvdirect/token", str(token)).replace("/run/kvdirect/join", str(lock))
            return script.replace("> /dev/null", "&& echo joined").replace("sleep 10", "echo round; sleep 0.2")

        def known() -> list[tuple[str, str]]:
            listing = f"kvdirect instances list --json --router {router} --token-file {token}"
            return [(item["role"], item["url"]) for item in json.loads(shell(listing, tmp_path))]

        words = container(name, "join")["command"]
        assert words[:2] == ["sh", "-c"]
        loop = f"exec {shlex.join(['sh', '-c', here(words[2])])}"
        with lock.open("w") as held:  # as while the hook drains
            fcntl.flock(held, fcntl.LOCK_EX)
            with running(loop, tmp_path) as said:
                assert "joined" not in said.wait(r"round\n(.*\n)*round\n").string
        assert known() == []
        with running(loop, tmp_path) as said:
            said.wait("^joined$")
            assert known() == [(name, url)]
        # The kubelet stops the loop as soon as the hook runs, which waits for a join that is under way.
        assert "flock /run/kvdirect/join " in hook(name)
        shell(here(hook(name)), tmp_path)
        assert known() == []


def unit(name: str) -> dict[str, str]:
    """The commands of a unit, by directive, each on one line."""
    text = (SYSTEMD / name).read_text().replace("\\\n", " ")
    return dict(re.findall(r"^(Exec\w+)=-?(.*)$", text, re.MULTILINE))


def expanded(command: str, variables: dict[str, str], instance: str) -> list[str]:
    """A command's words as systemd would make them."""
    text = command.replace("%i", instance)
    text = re.sub(r"\$\{(\w+)\}|\$(\w+)", lambda match: variables[match[1] or match[2]], text)
    return shlex.split(text)


def documented_environment() -> dict[str, str]:
    [block] = [block for block in blocks("docs/operations.md") if block.language == "ini"]
    return dict(line.split("=", 1) for line in block.text.splitlines())


def test_the_unit_of_engines() -> None:
    variables = documented_environment()
    commands = unit("kvdirect-engine@.service")
    assert set(commands) == {"ExecStart", "ExecStartPost", "ExecStop"}
    for command in commands.values():
        program, *words = expanded(command, variables, "prefill")
        assert program == "/opt/kvdirect/bin/kvdirect"
        parse_kvdirect(words)
    words = expanded(commands["ExecStart"], variables, "prefill")
    config = parse_vllm(["--model", *words[2:]])
    settings = parse_settings(config.kv_connector_extra_config)
    assert (settings.host, settings.listen) == (AUTO, variables["DEVICE"])
    assert (config.kv_role, config.kv_port) == ("kv_producer", int(variables["KV_PORT"]))


def test_the_unit_of_the_router() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    variables = dict(re.findall(r"`(ADDRESS|ENGINES)=([^`]*)`", text))
    program, *words = expanded(unit("kvdirect-router.service")["ExecStart"], variables, "")
    assert program == "/opt/kvdirect/bin/kvdirect"
    parse_kvdirect(words)
