# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A hostile peer that was never admitted, with everything UCX offers, against an engine that listens."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libucx
import numpy as np
import pytest

import kvtransfer as kt

from .harness import TESTS, Remote, listening_ports, wire

if TYPE_CHECKING:
    from .conftest import Here

LENGTH = 4096


@pytest.fixture(scope="session")
def raw_peer() -> Path:
    """The executable: $KVDIRECT_RAW_PEER, else built from tests/cpp."""
    if chosen := os.environ.get("KVDIRECT_RAW_PEER"):
        return Path(chosen)
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("needs cmake, or KVDIRECT_RAW_PEER naming a built kvdirect_raw_peer")
    root = TESTS.parent
    build = root / "build" / "raw_peer"
    ucx = Path(libucx.__file__).parent / "lib" / "cmake" / "ucx"
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DKVDIRECT_TESTS=ON", f"-Ducx_DIR={ucx}"]
    subprocess.run([cmake, "-S", str(root), "-B", str(build), *options], check=True, timeout=600)
    subprocess.run([cmake, "--build", str(build), "-j2", "--target", "kvdirect_raw_peer"], check=True, timeout=600)
    return build / "tests" / "cpp" / "kvdirect_raw_peer"


def attack(executable: Path, victim: Remote, lease: kt.LeaseRef, ports: list[int], *options: str) -> dict[str, Any]:
    """Attack by UCX, and by plain sockets at `ports`; what came of it."""
    address = victim.call("cache_address")
    done = subprocess.run(
        [
            str(executable),
            *options,
            victim.descriptor.hex(),
            *map(str, (address, LENGTH, lease.slot, lease.epoch, *ports)),
        ],
        env={**os.environ, "LD_LIBRARY_PATH": str(Path(kt.ucx_file()).parent)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


def test_a_stranger_gets_nothing_through_any_socket(raw_peer: Path, owner: Remote, reader: Here) -> None:
    peer = reader.connect(owner)
    lease = owner.grant([4, 5], watermark=32, term=300.0)
    before = owner.call("digest")
    ports = listening_ports(owner.process.pid)
    assert len(ports) == 3, "two shielded UCX workers and the gate"

    outcome = attack(raw_peer, owner, lease, ports)

    assert owner.call("digest") == before, f"memory was overwritten: {outcome}"
    assert not outcome["get"]["read_something"], outcome
    assert not any(port["acknowledged_put"] for port in outcome["ports"]), outcome
    counters = owner.call("counters")
    assert counters["sessions"] == 1, "only the honest reader was admitted"
    assert counters["bad_token"] == 0, "not one message reached UCX"
    assert counters["bad_message"] > 0, "the gate counted its noise"
    assert peer.alive
    assert_serving(owner, reader, peer, lease)


def test_a_peer_behind_the_gate_gets_no_further_without_a_token(raw_peer: Path, owner: Remote, reader: Here) -> None:
    peer = reader.connect(owner)
    lease = owner.grant([4, 5], watermark=32, term=300.0)

    outcome = attack(raw_peer, owner, lease, [], "--knock")

    assert not outcome["get"]["read_something"], outcome
    assert outcome["replays_sent"] > 0
    assert outcome["noise_sent"] > 0
    counters = owner.call("counters")
    assert counters["bad_token"] > 0
    assert counters["bad_admission"] > 0
    assert counters["bad_message"] > 0
    assert counters["sessions"] == 1, "only the honest reader was admitted"
    assert peer.alive
    assert owner.call("take_ended") == []
    assert owner.call("live") == 1


def assert_serving(owner: Remote, reader: Here, peer: kt.Peer, lease: kt.LeaseRef) -> None:
    """The lease is live and nobody completed it; who is connected is served on both lanes, and others get in."""
    assert owner.call("take_ended") == []
    assert owner.call("live") == 1
    whole = owner.layout.make(owner.seed)
    for local, lane in ((0, "message"), (2, "cma")):
        peer.pull(lease, [[4, 5]], [[local, local + 1]], stop=32, lane=lane).wait(30)
        np.testing.assert_array_equal(reader.cache[:, :, [local, local + 1]], whole[:, :, [4, 5]])
    assert reader.connect(owner, "message").alive
    peer.complete(lease)
    assert owner.call("wait_ended", timeout=20.0) == [[*wire(lease), "completed"]]
