# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Keys: who has none in the list gets nothing, who reads the wire neither, and they change while engines run."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("cryptography", reason="cryptography makes keys, and is not installed here")

from kvdirect.config import parse_settings
from kvdirect.handshake.client import ask
from kvdirect.handshake.messages import Hello, Welcome
from kvdirect.handshake.server import HandshakeServer
from kvdirect.keys.identity import generate, read_peers
from kvdirect.keys.tls import Keys
from kvtransfer.errors import ConfigError, ConnectError, MismatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FINGERPRINT = (("model", "m"),)
HELLO = Hello("the-reader", FINGERPRINT)
WELCOME = Welcome("the-owner", 7, FINGERPRINT, (16,), (1,), (b"secret-descriptor" * 100_000,))


@pytest.fixture
def keys(tmp_path: Path) -> Callable[..., Keys]:
    """The keys of an engine whose list has these others."""

    def of(name: str, *others: str) -> Keys:
        for each in (name, *others):
            if not (tmp_path / f"{each}.key").exists():
                generate(tmp_path / f"{each}.key", f"engine {each}")
        peers = tmp_path / f"peers-of-{name}"
        peers.write_bytes(b"".join((tmp_path / f"{each}.pub").read_bytes() for each in others))
        return Keys(tmp_path / f"{name}.key", peers)

    return of


def server(keys: Keys | None) -> HandshakeServer:
    made = HandshakeServer("127.0.0.1", 0, keys)
    made.offer(WELCOME)
    return made


@pytest.fixture
def owner(keys: Callable[..., Keys]) -> Iterator[HandshakeServer]:
    made = server(keys("owner", "reader", "other"))
    yield made
    made.close()


def test_who_is_in_the_others_list_is_answered(owner: HandshakeServer, keys: Callable[..., Keys]) -> None:
    for _ in range(3):
        assert ask("127.0.0.1", owner.port, HELLO, timeout=20, keys=keys("reader", "owner")) == WELCOME
    assert owner.counters == {"welcomed": 3, "refused": 0, "dropped": 0}


def test_who_is_not_gets_nothing(owner: HandshakeServer, keys: Callable[..., Keys]) -> None:
    with pytest.raises(ConnectError, match=r"ours is not in its peers_file.*\.pub file"):
        ask("127.0.0.1", owner.port, HELLO, timeout=20, keys=keys("stranger", "owner"))
    assert owner.counters == {"welcomed": 0, "refused": 1, "dropped": 0}


def test_an_owner_that_is_not_in_the_list_is_told_nothing(owner: HandshakeServer, keys: Callable[..., Keys]) -> None:
    with pytest.raises(ConnectError, match="its key is not in our peers_file"):
        ask("127.0.0.1", owner.port, HELLO, timeout=20, keys=keys("reader", "other"))
    assert owner.counters["welcomed"] == 0


def test_with_and_without_keys(owner: HandshakeServer, keys: Callable[..., Keys]) -> None:
    with pytest.raises(MismatchError, match=r"keys differs: needed at the owner, none at the reader.*key_file"):
        ask("127.0.0.1", owner.port, HELLO, timeout=20)
    assert owner.counters == {"welcomed": 0, "refused": 1, "dropped": 0}
    plain = server(None)
    try:
        with pytest.raises(ConnectError, match="it has no keys"):
            ask("127.0.0.1", plain.port, HELLO, timeout=20, keys=keys("reader", "owner"))
        assert plain.counters["welcomed"] == 0
    finally:
        plain.close()


def test_the_wire_shows_nothing(owner: HandshakeServer, keys: Callable[..., Keys]) -> None:
    seen = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as between:

        def pass_on() -> None:
            reader, _ = between.accept()
            onward = socket.create_connection(("127.0.0.1", owner.port))

            def one_way(source: socket.socket, sink: socket.socket) -> None:
                while data := source.recv(65536):
                    seen.extend(data)
                    sink.sendall(data)
                sink.shutdown(socket.SHUT_WR)

            back = threading.Thread(target=one_way, args=(onward, reader))
            back.start()
            one_way(reader, onward)
            back.join()

        thread = threading.Thread(target=pass_on)
        thread.start()
        port = between.getsockname()[1]
        assert ask("127.0.0.1", port, HELLO, timeout=20, keys=keys("reader", "owner")) == WELCOME
        thread.join(20)
    assert len(seen) > len(WELCOME.descriptors[0])
    for word in (b"secret-descriptor", b"the-reader", b"the-owner", b"KVDH", b"engine reader", b"engine owner"):
        assert word not in seen


def test_keys_change_while_engines_run(keys: Callable[..., Keys], tmp_path: Path) -> None:
    of_owner, of_reader = keys("owner", "reader"), keys("reader", "owner")
    made = server(of_owner)

    def answered() -> bool:
        try:
            return ask("127.0.0.1", made.port, HELLO, timeout=20, keys=of_reader) == WELCOME
        except ConnectError:
            return False

    try:
        assert answered()
        new = generate(tmp_path / "new.key", "engine reader, new")
        (tmp_path / "new.key").replace(tmp_path / "reader.key")
        assert not answered(), "the owner does not know it yet"
        peers = tmp_path / "peers-of-owner"
        peers.write_bytes(peers.read_bytes() + new.read_bytes())
        assert answered()
        peers.write_bytes(new.read_bytes())
        assert answered()
        peers.write_bytes((tmp_path / "reader.pub").read_bytes())
        assert not answered(), "it was taken away"
        peers.write_bytes(new.read_bytes())
        assert answered()
        (tmp_path / "owner.key").write_text("nonsense")
        assert answered(), "what cannot be used changes nothing"
    finally:
        made.close()


def test_files(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kvdirect", "keygen", str(tmp_path / "a.key"), "--comment", "prefill 1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "peers_file" in done.stdout
    assert stat.S_IMODE((tmp_path / "a.key").stat().st_mode) == 0o600
    assert (tmp_path / "a.pub").read_text().startswith("# prefill 1\n-----BEGIN CERTIFICATE-----")
    again = subprocess.run(
        [sys.executable, "-m", "kvdirect", "keygen", str(tmp_path / "a.key")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "is there already" in again.stderr
    (tmp_path / "empty").touch()
    with pytest.raises(ConfigError, match="no key in it"):
        read_peers(tmp_path / "empty")
    with pytest.raises(ConfigError, match="No such file"):
        read_peers(tmp_path / "nothing")
    (tmp_path / "a.key").chmod(0o640)
    with pytest.raises(ConfigError, match=r"others may read it \(mode -rw-r-----\); chmod 600"):
        Keys(tmp_path / "a.key", tmp_path / "a.pub")


def test_one_file_without_the_other_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"peers_file=.*go together"):
        parse_settings({"key_file": "/a.key"})
