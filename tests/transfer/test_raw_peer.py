# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A hostile UCX peer that was never admitted, against an engine; and against a UCX victim, where it succeeds."""

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
LIBRARIES = {**os.environ, "LD_LIBRARY_PATH": str(Path(kt.ucx_file()).parent)}


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


def attack(executable: Path, address: int, length: int, ports: list[int]) -> list[dict[str, Any]]:
    """What came of it, for each port."""
    done = subprocess.run(
        [str(executable), "attack", *map(str, (address, length, *ports))],
        env=LIBRARIES,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # UCX has its say on the same stream.
    outcome: list[dict[str, Any]] = json.loads(done.stdout[done.stdout.index('[{"port"') :])
    return outcome


def test_the_attacks_work_on_a_ucx_that_listens_on_tcp(raw_peer: Path) -> None:
    """A UCX worker with nothing but active messages switched on: its memory is read and overwritten."""
    with subprocess.Popen(
        [str(raw_peer), "serve"], env=LIBRARIES, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as victim:
        assert victim.stdout is not None
        assert victim.stdin is not None
        address, length, port = map(int, victim.stdout.readline().split())
        [outcome] = attack(raw_peer, address, length, [port])
        victim.stdin.close()
        # UCX has its say on the same stream.
        assert victim.stdout.read().splitlines()[-1] == "changed", outcome
    assert outcome["acknowledged_put"], outcome


def test_a_stranger_gets_nothing_through_any_socket(raw_peer: Path, owner: Remote, reader: Here) -> None:
    peer = reader.connect(owner)
    lease = owner.grant([4, 5], watermark=32, term=300.0)
    before = owner.call("digest")
    ports = listening_ports(owner.process.pid)
    assert len(ports) == 1

    outcomes = attack(raw_peer, owner.call("cache_address"), LENGTH, ports)

    assert owner.call("digest") == before, f"memory was overwritten: {outcomes}"
    for outcome in outcomes:
        assert not outcome["get"]["read_something"], outcome
        assert not outcome["acknowledged_put"], outcome
    counters = owner.call("counters")
    assert counters["sessions"] == 1, "only the honest reader was admitted"
    assert counters["bad_message"] > 0, "its noise was counted"
    assert peer.alive
    assert owner.call("take_ended") == []
    assert owner.call("live") == 1
    whole = owner.layout.make(owner.seed)
    for number, lane in enumerate(peer.lanes):
        local = [2 * number, 2 * number + 1]
        peer.pull(lease, [[4, 5]], [local], stop=32, lane=lane).wait(30)
        np.testing.assert_array_equal(reader.cache[:, :, local], whole[:, :, [4, 5]])
    assert reader.connect(owner, "message").alive
    peer.complete(lease)
    assert owner.call("wait_ended", timeout=20.0) == [[*wire(lease), "completed"]]
