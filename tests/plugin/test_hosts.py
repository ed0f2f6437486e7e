# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""`host: "auto"`, one configuration for every machine; and which names a ticket may hold."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from kvdirect.config import AUTO, parse_settings
from kvdirect.hosts import HostPolicy, device_address, endpoint, resolve, unbracketed
from kvdirect.parties import party_of
from kvtransfer.errors import ConfigError

# Run on a machine: where an engine with these settings listens, for handshakes and for data.
LISTENER = """
import json, subprocess, sys
import kvtransfer
from kvdirect.config import parse_settings
from kvdirect.handshake.server import HandshakeServer

settings = parse_settings(json.loads(sys.argv[1])).located()
server = HandshakeServer(settings.host, 0)
engine = kvtransfer.Engine(settings.engine())
engine.register(memory := kvtransfer.empty(4096))
lines = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout.splitlines()
at = sorted({line.split()[3].rpartition(":")[0].strip("[]") for line in lines})
print(json.dumps([settings.host, at]))
engine.close()
server.close()
"""
# Two addresses of each family, and those of the link alone, which mean nothing to others.
ADDRESSES = (
    ("both0", "10.77.5.{n}/24"),
    ("both0", "10.77.6.{n}/24"),
    ("both0", "fd77:5::{n}/64 nodad"),
    ("six0", "fd77:6::{n}/64 nodad"),
    ("four0", "10.77.7.{n}/24"),
)


def without_namespaces() -> str:
    """Why no machine can be made here, empty if one can."""
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    missing = [tool for tool in ("ip", "ss", "unshare") if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    return subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False).stderr


def on_a_machine(number: int, settings: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run LISTENER where the devices have addresses that end with this number."""
    devices = dict.fromkeys(device for device, _ in ADDRESSES)
    script = ["ip link set lo up"]
    # Both ends of each pair are up, so that the link is.
    script += [f"ip link add {device} type veth peer name {device}x" for device in devices]
    script += [f"ip address add dev {device} {address.format(n=number)}" for device, address in ADDRESSES]
    script += [f"ip link set {device}{end} up" for device in devices for end in ("", "x")]
    script += ["ip link add bare0 type veth peer name bare1", 'exec "$0" -c "$1" "$2"']
    commands = ("unshare", "--net", "bash", "-ec", "\n".join(script))
    arguments = (sys.executable, LISTENER, json.dumps(settings))
    return subprocess.run([*commands, *arguments], capture_output=True, text=True, timeout=60, check=False)


needs_namespaces = pytest.mark.skipif(bool(without_namespaces()), reason=f"no machines: {without_namespaces()}")


@needs_namespaces
@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("both0", "10.77.5.{n}"),
        ("both0/ipv6", "fd77:5::{n}"),
        ("six0", "fd77:6::{n}"),
        ("six0/ipv6", "fd77:6::{n}"),
        ("lo", "127.0.0.1"),
        ("lo/ipv6", "::1"),
    ],
)
def test_one_configuration_serves_every_machine(listen: str, expected: str) -> None:
    """Handshakes and data are where that machine's device is, and nowhere else."""
    for number in (1, 2):
        done = on_a_machine(number, {"host": AUTO, "listen": listen})
        assert done.returncode == 0, done.stderr
        address = expected.format(n=number)
        assert json.loads(done.stdout) == [address, [address]]


@needs_namespaces
@pytest.mark.parametrize(
    ("listen", "problem"),
    [
        ("eth9", "the network device 'eth9' of listen='eth9' does not exist"),
        ("bare0", "the network device 'bare0' of listen='bare0' has no address"),
        ("four0/ipv6", "the network device 'four0' of listen='four0/ipv6' has no IPv6 address"),
    ],
)
def test_a_device_without_an_address_is_named_with_what_is_there(listen: str, problem: str) -> None:
    done = on_a_machine(7, {"host": AUTO, "listen": listen})
    assert done.returncode != 0
    assert f"host='auto': {problem}" in done.stderr
    assert "both0: 10.77.5.7, fd77:5::7" in done.stderr
    assert "four0: 10.77.7.7" in done.stderr


def test_auto_is_the_address_of_the_device_that_is_listened_on() -> None:
    settings = parse_settings({"host": "auto"})
    assert settings.host == AUTO
    assert settings.located() == parse_settings({"host": "127.0.0.1"})
    assert device_address("lo") == "127.0.0.1"
    with pytest.raises(ConfigError, match=r"lo: 127\.0\.0\.1"):
        parse_settings({"host": "auto", "listen": "nothing0"}).located()
    given = parse_settings({"host": "10.0.0.5", "listen": "nothing0"})
    assert given.located() is given


def test_names_are_compared_as_text() -> None:
    policy = HostPolicy("10.1.1.1", ["Prefill-0", ".prefill.kvdirect.svc"])
    allowed = [
        "localhost",
        "LocalHost.",
        "prefill-0",
        "PREFILL-0.",
        "a.prefill.kvdirect.svc",
        "A.b.Prefill.kvdirect.svc.",
    ]
    refused = [
        "prefill-01",
        "prefill-0.evil.example",
        "evil.example",
        "prefill.kvdirect.svc",
        "xprefill.kvdirect.svc",
        "a.prefill.kvdirect.svc.evil.example",
        "evil.example/.prefill.kvdirect.svc",
        "user@a.prefill.kvdirect.svc",
        "a b.prefill.kvdirect.svc",
        "",
        ".",
        "10.1.1.2",
    ]
    assert [host for host in allowed if not policy.allows(host)] == []
    assert [host for host in refused if policy.allows(host)] == []


def test_spellings_of_hosts() -> None:
    assert [unbracketed(host) for host in ("[::1]", "::1", "a", "[x", "")] == ["::1", "::1", "a", "[x", ""]
    assert [endpoint(host, 5) for host in ("::1", "10.0.0.1", "name")] == ["[::1]:5", "10.0.0.1:5", "name:5"]
    assert [resolve(host, 10) for host in ("127.0.0.1", "::1", "localhost")] == ["127.0.0.1", "::1", "127.0.0.1"]


def test_host_policy_over_ipv6() -> None:
    policy = HostPolicy("fd00::1", ["fd00:0:0:7::/64", "[fd00::9]", "10.0.0.0/8"])
    allowed = ["fd00::1", "FD00:0::1", "fd00::7:0:0:0:42", "fd00::9", "::1", "::ffff:10.1.1.1", "::ffff:127.0.0.1"]
    refused = ["fd00::2", "fd00::8:0:0:0:42", "::", "::ffff:169.254.169.254", "fe80::1"]
    assert [host for host in allowed if not policy.allows(host)] == []
    assert [host for host in refused if policy.allows(host)] == []
    everything = HostPolicy("fd00::1", ["::/0"])
    assert not everything.allows("::ffff:169.254.169.254")  # that one is an IPv4 address


def test_host_policy() -> None:
    policy = HostPolicy("10.1.1.1", ["prefill-0", "192.168.0.0/24", "10.9.9.9"])
    allowed = ["127.0.0.1", "127.8.8.8", "::1", "localhost", "10.1.1.1", "prefill-0", "192.168.0.77", "10.9.9.9"]
    refused = ["192.168.1.1", "10.9.9.8", "evil.example", "prefill-01", "", "169.254.169.254"]
    assert [host for host in allowed if not policy.allows(host)] == []
    assert [host for host in refused if policy.allows(host)] == []


def test_of_ipv6_a_network_is_one_party() -> None:
    assert party_of("fd00::1") == party_of("fd00::2:0:0:7") == party_of("FD00:0::1") == "fd00::/64"
    assert party_of("fd00:0:0:1::1") != party_of("fd00::1")
    assert party_of("fe80::1%lo") == "fe80::/64"
    assert [party_of(text) for text in ("10.0.0.1", "not:an:address", "unknown")] == [
        "10.0.0.1",
        "not:an:address",
        "unknown",
    ]
