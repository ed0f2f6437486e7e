# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Two machines with two networks between them, made of network namespaces; and a container's own process ids."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from .harness import AgentError, Remote, child_environment, wire
from .layout import after_pull, digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Launch

BLOCKS = [5, 6, 7, 9]
OWNER, READER = 1, 2  # the last part of their addresses
SILENCE = 30  # seconds: of docs/reliability.md
NETWORKS = {"fast0": ("10.77.1.", "fd77:1::"), "slow0": ("10.77.2.", "fd77:2::")}


def run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert not check or done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


class Machine:
    """A network namespace that looks like a machine with two network interfaces."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = f"kvd-{os.getpid()}-{number}"
        self.inside = ("ip", "netns", "exec", self.name)

    def address(self, device: str, *, ipv6: bool = False) -> str:
        return f"{NETWORKS[device][ipv6]}{self.number}"

    def ip(self, *words: str) -> str:
        return run("ip", "-netns", self.name, *words)

    def listens_at(self) -> set[str]:
        """Addresses of all listening sockets."""
        lines = run(*self.inside, "ss", "-Hltn").splitlines()
        return {line.split()[3].rpartition(":")[0].strip("[]") for line in lines}

    def received(self, device: str) -> int:
        """Bytes that arrived at a device so far."""
        [link] = json.loads(self.ip("-json", "-stats", "link", "show", "dev", device))
        return int(link["stats64"]["rx"]["bytes"])


def refused_here() -> str:
    """Why this machine cannot play two, empty if it can."""
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    missing = [tool for tool in ("ip", "ss", "unshare") if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    probe = f"kvd-{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, timeout=60, check=False)
    run("ip", "netns", "delete", probe, check=False)
    return made.stderr.strip()


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[Machine, Machine]]:
    """An owner's and a reader's machine, joined by two networks."""
    if reason := refused_here():
        pytest.skip(f"no network namespaces here: {reason}")
    pair = Machine(OWNER), Machine(READER)
    try:
        for machine in pair:
            run("ip", "netns", "add", machine.name)
            machine.ip("link", "set", "lo", "up")
        for device in NETWORKS:
            ends = [("name", device, "netns", machine.name) for machine in pair]
            run("ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for machine in pair:
            for device in NETWORKS:
                machine.ip("address", "add", f"{machine.address(device)}/24", "dev", device)
                # Without duplicate detection, which would keep the address back for seconds.
                machine.ip("address", "add", f"{machine.address(device, ipv6=True)}/64", "dev", device, "nodad")
                machine.ip("link", "set", device, "up")
        yield pair
    finally:
        for machine in pair:
            run("ip", "netns", "delete", machine.name, check=False)


def move(owner: Remote, reader: Remote, lanes: list[str] | None = None) -> dict[str, Any]:
    """Connect and pull four blocks, look at every byte of the reader's cache; what connect and pull said."""
    connected = reader.call("connect", descriptor=owner.descriptor.hex(), lanes=lanes)
    lease = owner.grant(BLOCKS, watermark=64)
    pulled = reader.call(
        "pull", peer=connected["incarnation"], lease=wire(lease), remote=BLOCKS, local=[1, 2, 3, 4], stop=64
    )
    before, theirs = reader.layout.make(reader.seed), owner.layout.make(owner.seed)
    assert reader.call("digest") == digest(after_pull(before, theirs, [1, 2, 3, 4], BLOCKS, 0, 64))
    return {**connected, **pulled}


@pytest.mark.parametrize("device", list(NETWORKS))
@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_data_takes_the_device_that_listen_names(
    machines: tuple[Machine, Machine], launch: Launch, device: str, *, ipv6: bool
) -> None:
    here, there = machines
    [other] = set(NETWORKS) - {device}
    listen = f"{device}/ipv6" if ipv6 else device
    owner = launch(inside=here.inside, listen=listen)
    assert here.listens_at() == {here.address(device, ipv6=ipv6)}
    reader = launch(name="reader", seed=2, inside=there.inside, listen=listen)
    before = {name: there.received(name) for name in NETWORKS}
    moved = move(owner, reader, ["message"])
    assert moved["lane"] == "message"
    assert there.received(device) - before[device] > moved["bytes"]
    assert there.received(other) - before[other] < moved["bytes"]


def test_one_kernel_and_one_set_of_process_ids_is_one_host(machines: tuple[Machine, Machine], launch: Launch) -> None:
    """Namespaces of the network alone don't keep processes from reading each other, and the lanes have proved it."""
    here, there = machines
    owner = launch(inside=here.inside, listen="fast0")
    reader = launch(name="reader", seed=2, inside=there.inside, listen="fast0")
    assert move(owner, reader)["lanes"] == ["shm", "cma", "rdma", "message"]


def test_another_set_of_process_ids_leaves_shared_memory_and_messages(
    machines: tuple[Machine, Machine], launch: Launch
) -> None:
    """The owner's process id is somebody else's here, or nobody's: cma finds no nonce there and is not used.

    Shared memory needs no process ids, only the same directory.
    """
    here, there = machines
    container = (*here.inside, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    owner = launch(inside=container, listen="fast0")
    reader = launch(name="reader", seed=2, inside=there.inside, listen="fast0")
    moved = move(owner, reader, ["shm", "cma", "message"])
    assert (moved["lane"], moved["lanes"]) == ("shm", ["shm", "message"])
    with pytest.raises(AgentError, match=r"cma does not work: .*process 1\b") as refused:
        reader.call("connect", descriptor=owner.descriptor.hex(), lanes=["cma"])
    assert refused.value.kind == "LaneError"


def test_both_in_containers_of_their_own(machines: tuple[Machine, Machine], launch: Launch) -> None:
    """Both have process id 1: to the reader the owner's is its own."""
    here, there = machines
    container = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    owner = launch(inside=(*here.inside, *container), listen="fast0")
    reader = launch(name="reader", seed=2, inside=(*there.inside, *container), listen="fast0")
    assert move(owner, reader, ["shm", "cma", "message"])["lanes"] == ["shm", "message"]


def test_a_cut_is_noticed_by_both_sides_and_heals(machines: tuple[Machine, Machine], launch: Launch) -> None:
    """No process ends and nothing is closed: silence tells. A pull that is asked for meanwhile has its own bound."""
    here, there = machines
    owner = launch(inside=here.inside, listen="slow0")
    reader = launch(name="reader", seed=2, inside=there.inside, listen="slow0")
    peer = move(owner, reader, ["message"])["incarnation"]
    held = owner.grant(BLOCKS, watermark=64, term=1.0)
    reader.call("hold", peer=peer, lease=wire(held), term=1.0)
    there.ip("link", "set", "slow0", "down")
    try:
        cut = time.monotonic()
        with pytest.raises(AgentError) as late:
            reader.call("pull", peer=peer, lease=wire(held), remote=BLOCKS, local=[1, 2, 3, 4], stop=64, timeout=2.0)
        assert late.value.kind in {"PullTimeout", "PeerLost"}
        assert time.monotonic() - cut < 5
        assert owner.call("wait_ended", timeout=10.0) == [[*wire(held), "expired"]]
        while reader.call("alive", peer=peer):
            assert time.monotonic() - cut < SILENCE + 5, "the reader does not notice"
            time.sleep(0.2)
        while (counters := owner.call("counters"))["sessions_ended"] < counters["sessions"]:
            assert time.monotonic() - cut < SILENCE + 5, "the owner does not notice"
            time.sleep(0.2)
    finally:
        there.ip("link", "set", "slow0", "up")
        there.ip("address", "add", f"{there.address('slow0', ipv6=True)}/64", "dev", "slow0", "nodad")
    assert move(owner, reader, ["message"])["lane"] == "message"


def test_ipv4_and_ipv6_do_not_meet(machines: tuple[Machine, Machine], launch: Launch) -> None:
    here, there = machines
    owner = launch(inside=here.inside, listen="fast0/ipv6")
    reader = launch(name="reader", seed=2, inside=there.inside, listen="fast0")
    expected = f"the owner is at {here.address('fast0', ipv6=True)} and this engine at {there.address('fast0')}"
    with pytest.raises(AgentError, match=expected) as refused:
        reader.call("connect", descriptor=owner.descriptor.hex())
    assert refused.value.kind == "ConnectError"


@pytest.mark.parametrize("listen", ["fast9", "lo/ipv7", "down0", "bare0"])
def test_a_device_that_cannot_be_used_is_named(machines: tuple[Machine, Machine], listen: str) -> None:
    here, _ = machines
    if listen in {"down0", "bare0"}:
        ends = (listen, f"{listen}-peer")
        here.ip("link", "add", listen, "type", "veth", "peer", "name", ends[1])
        for end in ends if listen == "bare0" else ():  # up, but without any address
            here.ip("link", "set", end, "addrgenmode", "none", "up")
    with pytest.raises(AgentError, match=f"listen={listen}") as refused:
        Remote.launch(inside=here.inside, listen=listen)
    assert refused.value.kind == "ConfigError"


# A handshake server at one address, and a reader that dials it at the addresses it is told.
OWNER_PROGRAM = """
import sys
from kvdirect.handshake.server import HandshakeServer
from kvdirect.keys.tls import Keys
from pathlib import Path
from kvdirect.handshake.messages import Welcome
server = HandshakeServer(sys.argv[1], 0, Keys(Path(sys.argv[2]), Path(sys.argv[3])))
server.offer(Welcome("owner", 1, (("model", "m"),), (16,), (1,), (b"descriptor",)))
print(server.port, flush=True)
sys.stdin.read()
server.close()
"""
READER_PROGRAM = """
import sys
from kvdirect.handshake.client import ask
from kvdirect.handshake.messages import Hello
from kvdirect.keys.tls import Keys
from pathlib import Path
keys = Keys(*map(Path, sys.argv[3:])) if sys.argv[3:] else None
print(ask(sys.argv[1], int(sys.argv[2]), Hello("reader", (("model", "m"),)), timeout=30, keys=keys).engine_id)
"""


@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_handshakes_are_answered_at_the_advertised_address_only(
    machines: tuple[Machine, Machine], tmp_path: Path, *, ipv6: bool
) -> None:
    """And with keys, without which nobody on another machine is answered."""
    pytest.importorskip("vllm", reason="the plugin's dependencies are not installed here")
    from kvdirect.keys.identity import generate  # noqa: PLC0415  (its library comes with the plugin's)

    here, there = machines
    for name in ("owner", "reader"):
        generate(tmp_path / f"{name}.key", name)
    owners_keys = str(tmp_path / "owner.key"), str(tmp_path / "reader.pub")
    readers_keys = str(tmp_path / "reader.key"), str(tmp_path / "owner.pub")

    def python(machine: Machine, program: str, *words: str) -> list[str]:
        return [*machine.inside, sys.executable, "-c", program, *words]

    server = subprocess.Popen(
        python(here, OWNER_PROGRAM, here.address("fast0", ipv6=ipv6), *owners_keys),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=child_environment(),
    )
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        outcome = {}
        for device, keys in (("fast0", readers_keys), ("slow0", readers_keys), ("fast0", ())):
            ask = python(there, READER_PROGRAM, here.address(device, ipv6=ipv6), port, *keys)
            done = subprocess.run(
                ask, capture_output=True, text=True, timeout=120, check=False, env=child_environment()
            )
            outcome[device, bool(keys)] = done.stdout.strip() or done.stderr.strip().splitlines()[-1]
        assert outcome["fast0", True] == "owner"
        assert "nobody listens there" in outcome["slow0", True]
        assert "keys differs: needed at the owner, none at the reader" in outcome["fast0", False]
    finally:
        assert server.stdin is not None
        server.stdin.close()
        assert server.wait(60) == 0
