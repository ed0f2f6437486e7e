# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Keys: who has none in the list gets nothing, who reads the wire neither, and they change while engines run."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from handshake_attacks import tls_hello

import kvtransfer as kt
from kvdirect.config import parse_settings
from kvdirect.handshake.client import ask
from kvdirect.handshake.frames import HEADER, framed
from kvdirect.handshake.messages import Hello, Refusal, Welcome, pack, unpack
from kvdirect.handshake.server import HandshakeServer
from kvdirect.keys.identity import generate, read_peers
from kvdirect.keys.tls import Keys
from kvdirect.scheduler.half import with_passes
from kvtransfer.errors import ConfigError, ConnectError, MismatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FINGERPRINT = (("model", "m"),)
HELLO = Hello("the-reader", FINGERPRINT)
WELCOME = Welcome("the-owner", 7, FINGERPRINT, (16,), (1,), (b"secret-descriptor" * 100_000,))


def server(keys: Keys | None) -> HandshakeServer:
    made = HandshakeServer("127.0.0.1", 0, keys)
    made.offer(WELCOME)
    return made


def counted(server: HandshakeServer, **expected: int) -> None:
    """The owner has counted this, now or soon: a reader may hear of its end first."""
    soon(lambda: server.counters == expected)
    assert server.counters == expected


def soon(condition: Callable[[], bool]) -> None:
    """Wait until it is so, for a while."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


@pytest.fixture
def owner(keys: Callable[..., Keys]) -> Iterator[HandshakeServer]:
    made = server(keys("owner", "reader", "other"))
    yield made
    made.close()


def test_who_is_in_the_others_list_is_answered(owner: HandshakeServer, keys: Callable[..., Keys]) -> None:
    for _ in range(3):
        assert ask("127.0.0.1", owner.port, HELLO, timeout=20, keys=keys("reader", "owner")) == WELCOME
    counted(owner, welcomed=3, refused=0, dropped=0)


def test_who_is_not_gets_nothing(owner: HandshakeServer, keys: Callable[..., Keys]) -> None:
    with pytest.raises(ConnectError, match=r"ours is not in its peers_file.*\.pub file"):
        ask("127.0.0.1", owner.port, HELLO, timeout=20, keys=keys("stranger", "owner"))
    counted(owner, welcomed=0, refused=1, dropped=0)


@pytest.mark.parametrize("ca", [False, True])
def test_who_is_listed_vouches_for_nobody(
    owner: HandshakeServer, keys: Callable[..., Keys], tmp_path: Path, ca: bool
) -> None:
    """Not even with a certificate, of another maker's, that says it may."""
    keys("reader", "owner")
    signer = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "listed")])
    usual = x509.BasicConstraints(ca=ca, path_length=None)
    made = certificate(name, signer, name, signer).add_extension(usual, critical=True).sign(signer, None)
    listed = made.public_bytes(Encoding.PEM)
    (tmp_path / "peers-of-owner").write_bytes(listed)
    (tmp_path / "listed").write_bytes(listed)
    friend = Ed25519PrivateKey.generate()
    other = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "friend")])
    vouched = certificate(other, friend, name, signer).sign(signer, None).public_bytes(Encoding.PEM)
    for file, private, chain in (("friend", friend, vouched + listed), ("signer", signer, listed)):
        key = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (tmp_path / file).write_bytes(key + chain)
        (tmp_path / file).chmod(0o600)
    with pytest.raises(ConnectError, match=r"ours is not in its peers_file|ended before the answer"):
        ask("127.0.0.1", owner.port, HELLO, timeout=2, keys=Keys(tmp_path / "friend", tmp_path / "owner.pub"))
    soon(lambda: owner.counters["refused"] > 0)
    assert owner.counters["welcomed"] == 0
    known = Keys(tmp_path / "signer", tmp_path / "owner.pub")
    assert ask("127.0.0.1", owner.port, HELLO, timeout=20, keys=known) == WELCOME
    other_way = server(Keys(tmp_path / "friend", tmp_path / "reader.pub"))
    try:
        with pytest.raises(ConnectError, match="its key is not in our peers_file"):
            ask("127.0.0.1", other_way.port, HELLO, timeout=20, keys=Keys(tmp_path / "reader.key", tmp_path / "listed"))
    finally:
        other_way.close()


def certificate(
    subject: x509.Name, key: Ed25519PrivateKey, issuer: x509.Name, signer: Ed25519PrivateKey
) -> x509.CertificateBuilder:
    """To be signed by `signer`."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(9999, 1, 1, tzinfo=UTC))
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )


def test_a_hello_may_come_in_any_records(owner: HandshakeServer, keys: Callable[..., Keys]) -> None:
    """What TLS holds back of a record is not announced by the kernel."""
    message = framed(pack(HELLO))
    context = keys("reader", "owner").now().client
    with context.wrap_socket(socket.create_connection(("127.0.0.1", owner.port), timeout=20)) as sock:
        for piece in (message[:3], message[3:6], message[6:9], message[9:]):
            sock.sendall(piece)
        assert sock.recv(4) == message[:4]


def test_who_ends_within_tls_has_just_gone(owner: HandshakeServer) -> None:
    hello = tls_hello()
    for said in (hello[:1], hello[:40], hello):
        with socket.create_connection(("127.0.0.1", owner.port), timeout=20) as sock:
            sock.sendall(said)
    counted(owner, welcomed=0, refused=0, dropped=3)
    assert owner.dropped == {"gone": 3}


def test_who_speaks_no_tls_behind_its_first_byte_gets_nothing(owner: HandshakeServer) -> None:
    with socket.create_connection(("127.0.0.1", owner.port), timeout=20) as sock:
        sock.sendall(b"\x16" + framed(pack(HELLO)) * 100)
        sock.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert len(answer) <= 7, "an alert, at most"
    counted(owner, welcomed=0, refused=1, dropped=0)


def test_an_owner_that_is_not_in_the_list_is_told_nothing(owner: HandshakeServer, keys: Callable[..., Keys]) -> None:
    with pytest.raises(ConnectError, match="its key is not in our peers_file"):
        ask("127.0.0.1", owner.port, HELLO, timeout=20, keys=keys("reader", "other"))
    assert owner.counters["welcomed"] == 0


def test_with_and_without_keys(owner: HandshakeServer, keys: Callable[..., Keys]) -> None:
    with pytest.raises(MismatchError, match=r"keys differs: needed at the owner, none at the reader.*key_file"):
        ask("127.0.0.1", owner.port, HELLO, timeout=20)
    counted(owner, welcomed=0, refused=1, dropped=0)
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


def test_a_reader_gets_descriptors_of_its_own(keys: Callable[..., Keys]) -> None:
    """So that the owner's secret, which admits anybody, stays with the owner."""
    with kt.Engine(kt.EngineConfig(), name="owner") as engine, kt.Engine(kt.EngineConfig(), name="reader") as reading:
        for one in (engine, reading):
            cache = np.zeros((4, 8, 2), dtype=np.float32)
            one.publish(kt.TensorMap([one.register_tensor("c", cache, ("block", "token", "element"))]))
        base = engine.descriptor()
        made = HandshakeServer("127.0.0.1", 0, keys("owner", "reader", "other"), for_reader=with_passes)
        made.offer(Welcome("the-owner", 7, FINGERPRINT, (16,), (1,), (base,)))
        try:
            answers = {
                name: ask("127.0.0.1", made.port, HELLO, timeout=20, keys=keys(name, "owner")).descriptors[0]
                for name in ("reader", "other")
            }
        finally:
            made.close()
        assert len({base, *answers.values()}) == 3
        assert reading.connect(answers["reader"]).alive
        assert engine.counters()["sessions"] == 1
        with pytest.raises(ConfigError):
            kt.descriptor_for(answers["reader"], reader="somebody else", valid_for=60)


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
    with pytest.raises(ConfigError, match=r"key_file=''.*require_keys is set"):
        parse_settings({"require_keys": True})


@pytest.mark.parametrize(
    ("extra", "offender"),
    [
        ({"host": "10.0.0.5"}, "host: '10.0.0.5'"),
        ({"host": "prefill-0.example"}, "host: 'prefill-0.example'"),
        ({"host": "[fd00::5]"}, "host: 'fd00::5'"),
        ({"allow_hosts": ["127.0.0.0/8", "10.0.0.0/24"]}, "allow_hosts: '10.0.0.0/24'"),
        ({"allow_hosts": ["0.0.0.0/0"]}, "allow_hosts: '0.0.0.0/0'"),
        ({"allow_hosts": [".example.com"]}, "allow_hosts: '.example.com'"),
    ],
)
def test_without_keys_nothing_beyond_this_machine(extra: dict[str, object], offender: str) -> None:
    with pytest.raises(ConfigError, match=r"insecure_network") as caught:
        parse_settings(extra).refuse_open_network()
    assert offender in str(caught.value)
    parse_settings(extra | {"insecure_network": True}).refuse_open_network()
    parse_settings(extra | {"key_file": "/a.key", "peers_file": "/peers"}).refuse_open_network()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "LocalHost."])
def test_this_machine_needs_no_keys(host: str) -> None:
    parse_settings({"host": host, "allow_hosts": ["127.0.0.0/8", "localhost", "::1"]}).refuse_open_network()


BARE_PYTHON = shutil.which("python3", path="/usr/local/bin:/usr/bin")  # another user may not read this environment
ASK_RAW = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=20) as sock:
    sock.sendall(bytes.fromhex(sys.argv[2]))
    sys.stdout.write(b"".join(iter(lambda: sock.recv(65536), b"")).hex())
"""
ANSWER_RAW = """
import socket, sys
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
with listening.accept()[0] as sock:
    sock.sendall(bytes.fromhex(sys.argv[1]))
    while sock.recv(65536):
        pass
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@needs_root
def test_another_user_of_this_machine_is_refused() -> None:
    def answer(port: int, user: int) -> Welcome | Refusal | Hello:
        said = framed(pack(HELLO)).hex()
        program = [str(BARE_PYTHON), "-I", "-c", ASK_RAW, str(port), said]
        done = subprocess.run(program, capture_output=True, text=True, check=True, user=user, cwd="/")
        return unpack(bytes.fromhex(done.stdout)[HEADER.size :])

    plain = server(None)
    try:
        assert answer(plain.port, 65534) == Refusal("user", "0", "65534")
        assert answer(plain.port, 0) == WELCOME
        assert plain.counters == {"welcomed": 1, "refused": 1, "dropped": 0}
    finally:
        plain.close()
    to_all = HandshakeServer("127.0.0.1", 0, anybody=True)
    to_all.offer(WELCOME)
    try:
        assert answer(to_all.port, 65534) == WELCOME
    finally:
        to_all.close()


@needs_root
@pytest.mark.parametrize("user", [0, 65534])
def test_an_owner_that_is_another_users_is_not_believed(user: int) -> None:
    answer = framed(pack(Welcome("the-owner", 7, FINGERPRINT, (16,), (1,), (b"descriptor",))))
    program = [str(BARE_PYTHON), "-I", "-c", ANSWER_RAW, answer.hex()]
    for anybody in (False, True):
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, user=user, cwd="/") as owner:
            assert owner.stdout is not None
            port = int(owner.stdout.readline())
            if user == 0 or anybody:
                assert ask("127.0.0.1", port, HELLO, timeout=20, anybody=anybody).engine_id == "the-owner"
            else:
                with pytest.raises(MismatchError, match="user differs: 65534 at the owner, 0 at the reader"):
                    ask("127.0.0.1", port, HELLO, timeout=20)
