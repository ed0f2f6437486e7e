# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Lane shm: who is given the memory and who is not, and what is left of an owner that is gone."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

import kvtransfer as kt

from .frames import Address, Id
from .harness import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Here, Launch

CONNECT = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sock = socket.socket(socket.AF_UNIX)
try:
    sock.connect(sys.argv[1])
except PermissionError:
    sys.exit(13)
"""


@pytest.fixture
def meeting(tmp_path: Path) -> Path:
    return tmp_path / "meeting"


def handoff_of(meeting: Path) -> Path:
    [path] = meeting.glob("*.sock")
    return path


def ask(path: Path, secret: bytes) -> int | None:
    """How many descriptors are handed over against this secret; None: the connection was ended."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(path))
        sock.send(secret)
        try:
            data, descriptors, _flags, _address = socket.recv_fds(sock, 1, 256)
        except ConnectionError:
            return None
        for descriptor in descriptors:
            os.close(descriptor)
        return len(descriptors) if data else None


@contextlib.contextmanager
def session_secret(descriptor: bytes, meeting: Path) -> Iterator[bytes]:
    """A session, and the secret in its welcome: behind the path of the socket (docs/protocol.md)."""
    address = Address.of(descriptor)
    with address.dial() as sock:
        message, body = address.ask(sock)
        assert message == Id.WELCOME
        path = str(handoff_of(meeting)).encode()
        at = body.index(struct.pack("<H", len(path)) + path) + 2 + len(path)
        yield body[at : at + 16]


def test_a_secret_is_good_once(launch: Launch, meeting: Path) -> None:
    owner = launch(shm_directory=str(meeting))
    with session_secret(owner.descriptor, meeting) as secret:
        assert ask(handoff_of(meeting), bytes(16)) is None
        assert ask(handoff_of(meeting), secret[:8]) is None
        assert ask(handoff_of(meeting), secret) == 2  # the control page and one cache
        assert ask(handoff_of(meeting), secret) is None
    assert owner.call("live") == 0


def test_a_secret_ends_with_its_session(launch: Launch, meeting: Path) -> None:
    owner = launch(shm_directory=str(meeting))
    with session_secret(owner.descriptor, meeting) as first, session_secret(owner.descriptor, meeting) as second:
        pass
    until(lambda: owner.call("counters")["sessions_ended"] == 2, "both sessions are over")
    assert ask(handoff_of(meeting), first) is None
    assert ask(handoff_of(meeting), second) is None
    with session_secret(owner.descriptor, meeting) as third:
        assert ask(handoff_of(meeting), third) == 2


def test_what_is_handed_over_cannot_be_written(launch: Launch, meeting: Path) -> None:
    owner = launch(shm_directory=str(meeting))
    with session_secret(owner.descriptor, meeting) as secret, socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(handoff_of(meeting)))
        sock.send(secret)
        _data, descriptors, _flags, _address = socket.recv_fds(sock, 1, 256)
    for descriptor in descriptors:
        with pytest.raises(PermissionError):
            os.pwrite(descriptor, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
        os.close(descriptor)


def test_only_this_user_enters(launch: Launch, meeting: Path) -> None:
    launch(shm_directory=str(meeting))
    assert stat.S_IMODE(meeting.stat().st_mode) == 0o700
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    done = subprocess.run([sys.executable, "-c", CONNECT, str(handoff_of(meeting))], check=False, timeout=60)
    assert done.returncode == 13


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_a_directory_that_others_enter_is_not_used(launch: Launch, reader: Here, meeting: Path, mode: int) -> None:
    meeting.mkdir()
    meeting.chmod(mode)
    owner = launch(shm_directory=str(meeting))
    assert list(meeting.iterdir()) == []
    assert "shm" not in reader.connect(owner).lanes


def test_memory_that_is_not_shared_is_read_another_way(launch: Launch, reader: Here) -> None:
    owner = launch(share=False)
    peer = reader.connect(owner)
    assert peer.lane == "cma"
    with pytest.raises(kt.LaneError, match="the owner's memory is not shared"):
        reader.engine.connect(owner.descriptor, require_lane="shm")


def test_the_owner_knows_why_its_memory_is_not_shared(meeting: Path) -> None:
    plain = np.zeros((4, 16), dtype=np.uint8)
    with kt.Engine(kt.EngineConfig(shm_directory=str(meeting))) as engine:
        engine.publish(kt.TensorMap([engine.register_tensor("k", plain, ("block", "element"))]))
        assert "no shared memory holds region 0" in engine.lane_problems["shm"]
    with kt.Engine(kt.EngineConfig(lanes=("message",))) as engine:
        assert "not permitted" in engine.lane_problems["shm"]
    with kt.Engine(kt.EngineConfig(shm_directory=str(meeting.parent / ("long" * 40)))) as engine:
        assert "shorter shm_directory" in engine.lane_problems["shm"]


def test_a_handoff_that_fails_does_not_blame_another_lane(launch: Launch, reader: Here, meeting: Path) -> None:
    """Lanes shm and cuda_ipc share the socket; each error names the lane that asked, and once."""
    with kt.Engine(kt.EngineConfig(shm_directory=str(meeting.parent / ("long" * 40)))) as engine:
        assert engine.lane_problems["shm"].count("does not work") == 1
    owner = launch(shm_directory=str(meeting))
    handoff_of(meeting).unlink()
    with pytest.raises(kt.LaneError, match="shm does not work: the owner's socket") as refused:
        reader.engine.connect(owner.descriptor, require_lane="shm")
    assert str(refused.value).count("does not work") == 1


def test_sockets_come_and_go_with_their_owners(launch: Launch, meeting: Path) -> None:
    owner, killed = launch(shm_directory=str(meeting)), launch(name="killed", shm_directory=str(meeting))
    assert len(list(meeting.iterdir())) == 2
    killed.process.kill()
    assert len(list(meeting.iterdir())) == 2
    following = launch(name="following", shm_directory=str(meeting))
    assert {path.stem for path in meeting.iterdir()} == {
        f"{owner.incarnation:016x}",
        f"{following.incarnation:016x}",
    }
    for one in (owner, following):
        one.call("close")
    until(lambda: list(meeting.iterdir()) == [], "closed engines leave nothing behind")


def test_an_owner_that_closes_is_not_read_again(owner_and_peer: tuple[object, kt.Peer]) -> None:
    """Its memory stays mapped and full of the right bytes; nobody vouches for them any more."""
    owner, peer = owner_and_peer
    lease = owner.grant([4], watermark=16)  # type: ignore[attr-defined]
    peer.pull(lease, [[4]], [[0]], stop=16).wait(30)
    owner.call("close")  # type: ignore[attr-defined]
    with pytest.raises(kt.PullError):
        peer.pull(lease, [[4]], [[1]], stop=16).wait(30)


@pytest.fixture
def owner_and_peer(launch: Launch, reader: Here) -> tuple[object, kt.Peer]:
    owner = launch()
    return owner, reader.connect(owner, "shm")


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int64"])
def test_empty_is_zeros_of_that_type(dtype: str) -> None:
    array = kt.empty((3, 5), dtype)
    assert (array.shape, array.dtype, array.sum()) == ((3, 5), np.dtype(dtype), 0)
    array[1, 2] = 7
    assert array.sum() == 7
    assert kt.empty(11).shape == (11,)


@pytest.mark.parametrize(
    ("shape", "dtype", "complaint"),
    [(0, "uint8", "shape=0"), ((3, -1), "uint8", "shape="), ((2, 0), "uint8", "shape="), (4, "object", "dtype=object")],
)
def test_empty_refuses(shape: int | tuple[int, ...], dtype: str, complaint: str) -> None:
    with pytest.raises(kt.ConfigError, match=complaint):
        kt.empty(shape, dtype)


def test_more_than_there_is_is_refused() -> None:
    with pytest.raises(kt.TransportError, match="shared memory"):
        kt.empty(1 << 60)
