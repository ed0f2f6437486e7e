# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Two ends of the handshake over real sockets, and what strangers can do to it: nothing."""

import socket
import threading
import time
from collections.abc import Iterator

import msgspec
import pytest
import zmq

from kvdirect.fingerprint import PROTOCOL_VERSION
from kvdirect.handshake import client
from kvdirect.handshake.client import ask
from kvdirect.handshake.messages import MAX_MESSAGE, Hello, Refusal, Welcome, pack, unpack
from kvdirect.handshake.server import HandshakeServer
from kvdirect.hosts import HostPolicy, endpoint, resolve, unbracketed
from kvtransfer.errors import ConfigError, ConnectError, MismatchError

FINGERPRINT = (
    ("protocol_version", str(PROTOCOL_VERSION)),
    ("model", "tiny"),
    ("dtype", "float32"),
    ("layout", "LBHNC"),
    ("g0.block_size", "128"),
)
HELLO = Hello("reader", FINGERPRINT)
WELCOME = Welcome("owner", 0xFEDCBA9876543210, FINGERPRINT, (128, 16), (4, 1), (b"secret descriptor", b"another"))


@pytest.fixture
def server() -> Iterator[HandshakeServer]:
    server = HandshakeServer("127.0.0.1", 0)
    server.offer(WELCOME)
    yield server
    server.close()


def raw(port: int, *messages: tuple[bytes, ...], wait_ms: int = 5000) -> bytes | None:
    """Send frames as they are; the first reply, or None if there is none in time."""
    context = zmq.Context()
    try:
        sock = context.socket(zmq.DEALER)
        sock.setsockopt(zmq.LINGER, 1000)
        sock.connect(f"tcp://127.0.0.1:{port}")
        for frames in messages:
            sock.send_multipart(list(frames))
        return sock.recv() if sock.poll(wait_ms) else None
    finally:
        context.destroy(linger=1000)


def still_answers(server: HandshakeServer) -> bool:
    return ask("127.0.0.1", server.port, HELLO, timeout=10) == WELCOME


def test_equal_engines_agree(server: HandshakeServer) -> None:
    assert ask("127.0.0.1", server.port, HELLO, timeout=10) == WELCOME
    assert server.counters == {"welcomed": 1, "refused": 0, "dropped": 0}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "other"),
        ("dtype", "bfloat16"),
        ("g0.block_size", "64"),
        ("protocol_version", "7"),
        ("layout", "LBNHC"),
    ],
)
def test_mismatch_names_field_and_both_values_and_gives_nothing_away(
    server: HandshakeServer, field: str, value: str
) -> None:
    owner_value = dict(FINGERPRINT)[field]
    hello = Hello("reader", tuple((key, value if key == field else old) for key, old in FINGERPRINT))
    with pytest.raises(MismatchError) as caught:
        ask("127.0.0.1", server.port, hello, timeout=10)
    assert f"{field} differs: {owner_value} at the owner, {value} at the reader" in str(caught.value)
    reply = raw(server.port, (pack(hello),))
    assert reply is not None
    assert not any(descriptor in reply for descriptor in WELCOME.descriptors)
    assert still_answers(server)


def test_the_reader_compares_too() -> None:
    """An owner that would take anybody is refused by the reader."""
    context = zmq.Context()
    try:
        careless = context.socket(zmq.ROUTER)
        port = careless.bind_to_random_port("tcp://127.0.0.1")
        other = (("model", "someone else's"), *FINGERPRINT[2:])

        def answer() -> None:
            assert careless.poll(10_000)
            identity, _ = careless.recv_multipart()
            careless.send_multipart([identity, pack(Welcome("owner", 1, other, (16,), (1,), (b"d",)))])

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(MismatchError, match="model differs: someone else's at the owner, tiny at the reader"):
            ask("127.0.0.1", port, HELLO, timeout=10)
        thread.join(10)
    finally:
        context.destroy(linger=0)


def test_another_protocol_version_is_refused_with_both(server: HandshakeServer) -> None:
    future = bytearray(pack(HELLO))
    future[4:6] = (PROTOCOL_VERSION + 7).to_bytes(2, "big")
    reply = raw(server.port, (bytes(future),))
    assert reply is not None
    assert unpack(reply) == Refusal("protocol_version", str(PROTOCOL_VERSION), str(PROTOCOL_VERSION + 7))
    assert still_answers(server)


@pytest.mark.parametrize(
    "frames",
    [
        (b"",),
        (b"garbage",),
        (b"KVDH\x00\x02" + b"\xc1" * 40,),
        (b"\x80\x04\x95pickle",),
        (pack(Refusal("a", "b", "c")),),
        # {"x": [[[...]]]}, nested deeper than any decoder follows
        (b"KVDH\x00\x02" + b"\x81\xa1x" + b"\x91" * 200_000 + b"\xc0",),
        (b"one", b"two", b"three"),
    ],
)
def test_nonsense_is_dropped_and_counted(server: HandshakeServer, frames: tuple[bytes, ...]) -> None:
    """The first answer to whoever sent it is the one to the hello that comes behind it."""
    welcome = raw(server.port, frames, (pack(HELLO),))
    assert welcome is not None
    assert isinstance(unpack(welcome), Welcome)
    assert server.counters == {"welcomed": 1, "refused": 0, "dropped": 1}
    assert still_answers(server)


def test_oversize_ends_the_connection_not_the_server(server: HandshakeServer) -> None:
    assert raw(server.port, (bytes(MAX_MESSAGE + 1),), wait_ms=300) is None
    assert still_answers(server)
    assert server.counters["welcomed"] == 1


def test_bytes_that_are_not_even_zmq(server: HandshakeServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
    assert still_answers(server)


def test_an_answer_may_be_larger_than_a_hello(server: HandshakeServer) -> None:
    """It has the maps of all ranks; what strangers may send stays bounded."""
    large = msgspec.structs.replace(WELCOME, descriptors=(bytes(MAX_MESSAGE), bytes(MAX_MESSAGE)))
    server.offer(large)
    assert ask("127.0.0.1", server.port, HELLO, timeout=10) == large
    assert raw(server.port, (pack(large),), wait_ms=300) is None


def test_reader_waits_while_the_owner_starts() -> None:
    server = HandshakeServer("127.0.0.1", 0)
    try:
        with pytest.raises(ConnectError, match="not ready"):
            ask("127.0.0.1", server.port, HELLO, timeout=0.5)
        server.offer(WELCOME)
        assert still_answers(server)
    finally:
        server.close()


@pytest.fixture
def vacant() -> Iterator[int]:
    """A port that refuses connections, and is nobody else's."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def test_nobody_there(vacant: int) -> None:
    with pytest.raises(ConnectError, match="no answer in time"):
        ask("127.0.0.1", vacant, HELLO, timeout=0.4)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that does all it does within a fifth of the time."""
    for name in ("_PATIENCE", "_LOOK_EVERY", "_REFUSED_FOR"):
        monkeypatch.setattr(client, name, getattr(client, name) / 5)


@pytest.mark.usefixtures("impatient")
def test_a_dead_owner_is_given_up_long_before_the_timeout(vacant: int) -> None:
    with pytest.raises(ConnectError, match="nobody listens there"):
        ask("127.0.0.1", vacant, HELLO, timeout=120)


@pytest.mark.usefixtures("impatient")
def test_an_owner_that_listens_but_is_busy_keeps_its_time() -> None:
    """Accepting connections is the kernel's work, so a process that stands still does not look dead."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        with pytest.raises(ConnectError, match="no answer in time"):
            ask("127.0.0.1", sock.getsockname()[1], HELLO, timeout=0.8)


def test_an_owner_that_begins_to_listen_a_moment_later_is_reached() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    late: list[HandshakeServer] = []

    def start() -> None:
        time.sleep(1)
        late.append(HandshakeServer("127.0.0.1", port))
        late[0].offer(WELCOME)

    thread = threading.Thread(target=start)
    thread.start()
    try:
        assert ask("127.0.0.1", port, HELLO, timeout=60) == WELCOME
    finally:
        thread.join()
        late[0].close()


def test_a_taken_port_is_named_with_the_remedy(server: HandshakeServer) -> None:
    with pytest.raises(ConfigError) as caught:
        HandshakeServer("127.0.0.1", server.port)
    assert f"kv_port={server.port}" in str(caught.value)
    assert "kv_port=0" in str(caught.value)
    assert still_answers(server)


def test_the_port_is_free_after_close() -> None:
    first = HandshakeServer("127.0.0.1", 0)
    first.close()
    first.close()
    second = HandshakeServer("127.0.0.1", first.port)
    second.close()


def test_only_loopback_is_listened_to(server: HandshakeServer) -> None:
    listening = []
    with open("/proc/net/tcp") as table:  # noqa: PTH123
        for line in list(table)[1:]:
            local, state = line.split()[1], line.split()[3]
            if state == "0A" and int(local.split(":")[1], 16) == server.port:
                listening.append(local.split(":")[0])
    assert listening == ["0100007F"]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
def test_ipv6() -> None:
    server = HandshakeServer("::1", 0)
    try:
        server.offer(WELCOME)
        assert ask("::1", server.port, HELLO, timeout=10) == WELCOME
        with pytest.raises(ConfigError, match="host ::1: the port is taken"):
            HandshakeServer("::1", server.port)
        with pytest.raises(ConnectError, match=rf"\[::1\]:{server.port}"):
            ask("::1", server.port, Hello("reader", ()), timeout=0)
    finally:
        server.close()


def test_a_name_is_looked_up_where_it_is_used() -> None:
    server = HandshakeServer("localhost", 0)
    try:
        server.offer(WELCOME)
        assert ask("localhost", server.port, HELLO, timeout=10) == WELCOME
    finally:
        server.close()


def test_a_name_that_means_nothing_is_named() -> None:
    with pytest.raises(ConfigError, match=r"host='prefill-0\.invalid' does not resolve"):
        HandshakeServer("prefill-0.invalid", 0)
    with pytest.raises(ConnectError, match=r"'prefill-0\.invalid' does not resolve"):
        ask("prefill-0.invalid", 14579, HELLO, timeout=10)


def test_an_address_of_another_machine_cannot_be_bound() -> None:
    with pytest.raises(
        ConfigError, match=r"kv_port=0 on host 203\.0\.113\.77: cannot be bound.*address of this machine"
    ):
        HandshakeServer("203.0.113.77", 0)


def test_spellings_of_hosts() -> None:
    assert [unbracketed(host) for host in ("[::1]", "::1", "a", "[x", "")] == ["::1", "::1", "a", "[x", ""]
    assert [endpoint(host, 5) for host in ("::1", "10.0.0.1", "name")] == ["[::1]:5", "10.0.0.1:5", "name:5"]
    assert [resolve(host) for host in ("127.0.0.1", "::1", "localhost")] == ["127.0.0.1", "::1", "127.0.0.1"]


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
