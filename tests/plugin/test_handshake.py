# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Two ends of the handshake over real sockets. What strangers can do to it is in test_handshake_bounds.py: nothing."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from kvdirect.fingerprint import PROTOCOL_VERSION
from kvdirect.handshake import client
from kvdirect.handshake.client import ask
from kvdirect.handshake.frames import HEADER, MAGIC, ZEROMQ_SIGNATURE, framed
from kvdirect.handshake.messages import MAX_ANSWER, Hello, Refusal, Welcome, pack, unpack
from kvdirect.handshake.server import HandshakeServer
from kvdirect.harness.processes import free_port
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


def raw(port: int, *messages: bytes) -> bytes:
    """Send bytes as they are; all that comes back until the owner ends the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(b"".join(messages))
        return b"".join(iter(lambda: sock.recv(65536), b""))


def body_of(reply: bytes) -> bytes:
    _, version, length = HEADER.unpack_from(reply)
    assert (version, length) == (PROTOCOL_VERSION, len(reply) - HEADER.size)
    return reply[HEADER.size :]


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
    reply = raw(server.port, framed(pack(hello)))
    assert isinstance(unpack(body_of(reply)), Refusal)
    assert not any(descriptor in reply for descriptor in WELCOME.descriptors)
    assert still_answers(server)


def answering(*replies: bytes) -> Iterator[int]:
    """The port of an owner that sends these bytes, one after the other to whoever connects, whatever is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            for reply in replies:
                with listening.accept()[0] as sock:
                    sock.sendall(reply)
                    with contextlib.suppress(OSError):  # where the reader did not want all of it
                        sock.shutdown(socket.SHUT_WR)
                        while sock.recv(65536):
                            pass

        thread = threading.Thread(target=answer)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)


def asked(reply: bytes) -> Welcome:
    for port in answering(reply):
        return ask("127.0.0.1", port, HELLO, timeout=10)
    raise AssertionError


def test_the_reader_compares_too() -> None:
    """An owner that would take anybody is refused by the reader."""
    other = (("model", "someone else's"), *FINGERPRINT[2:])
    with pytest.raises(MismatchError, match="model differs: someone else's at the owner, tiny at the reader"):
        asked(framed(pack(Welcome("owner", 1, other, (16,), (1,), (b"d",)))))


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not a KVDirect handshake"),
        (framed(b"\xc1" * 40), "message: "),
        (framed(b""), "message: "),
        (HEADER.pack(MAGIC, PROTOCOL_VERSION, MAX_ANSWER + 1), f"{MAX_ANSWER + 1} bytes, at most {MAX_ANSWER}"),
        (framed(pack(HELLO)), "this is no owner"),
    ],
)
def test_an_answer_without_sense_is_told_at_once(reply: bytes, status: str) -> None:
    with pytest.raises(ConnectError, match=status):
        asked(reply)


def test_an_owner_that_hangs_up_is_asked_again() -> None:
    """It may have made room for others, or be on its way to be restarted."""
    for port in answering(b"", framed(pack(Refusal("ready", "starting", "connecting"))), framed(pack(WELCOME))):
        assert ask("127.0.0.1", port, HELLO, timeout=30) == WELCOME


def test_reader_waits_while_the_owner_starts() -> None:
    server = HandshakeServer("127.0.0.1", 0)
    try:
        with pytest.raises(ConnectError, match="not ready"):
            ask("127.0.0.1", server.port, HELLO, timeout=3)
        server.offer(WELCOME)
        assert still_answers(server)
    finally:
        server.close()


@pytest.mark.parametrize(
    ("first", "told"),
    [(framed(pack(Refusal("ready", "starting", "connecting"))), "not ready"), (b"", "ended before the answer")],
    ids=["not ready", "hangs up"],
)
def test_what_the_first_try_met_outlives_a_last_one_without_answer(first: bytes, told: str) -> None:
    for port in answering(first):
        with pytest.raises(ConnectError, match=told):
            ask("127.0.0.1", port, HELLO, timeout=1.5)  # the second try is never accepted


def test_a_newer_reader_is_told_both_versions(server: HandshakeServer) -> None:
    newer = HEADER.pack(MAGIC, PROTOCOL_VERSION + 7, 40_000) + bytes(40_000)
    refusal = unpack(body_of(raw(server.port, newer)))
    assert refusal == Refusal("protocol_version", str(PROTOCOL_VERSION), str(PROTOCOL_VERSION + 7))
    assert still_answers(server)
    assert server.counters == {"welcomed": 1, "refused": 1, "dropped": 0}


def test_a_newer_owner_is_told_from_its_header_or_by_its_refusal() -> None:
    theirs = PROTOCOL_VERSION + 7
    for length in (12, 1 << 31):
        with pytest.raises(MismatchError, match=f"protocol_version differs: {theirs} at .* {PROTOCOL_VERSION} at"):
            asked(HEADER.pack(MAGIC, theirs, length) + b"\x93" * 12)
    body = pack(Refusal("protocol_version", "10 to 12", str(PROTOCOL_VERSION)))
    with pytest.raises(MismatchError, match=f"protocol_version differs: 10 to 12 at .* {PROTOCOL_VERSION} at"):
        asked(HEADER.pack(MAGIC, theirs, len(body)) + body)


def test_an_older_owner_is_told_by_its_greeting() -> None:
    with pytest.raises(MismatchError, match=f"protocol_version differs: 2 or older at .* {PROTOCOL_VERSION} at"):
        asked(ZEROMQ_SIGNATURE + bytes(54))


def test_an_older_reader_is_told_in_its_own_words(server: HandshakeServer) -> None:
    """Through a real ZeroMQ socket, as it was used then."""
    zmq = pytest.importorskip("zmq")
    context = zmq.Context()
    try:
        sock = context.socket(zmq.DEALER)
        sock.connect(f"tcp://127.0.0.1:{server.port}")
        sock.send(b"KVDH\x00\x02" + pack(HELLO))
        assert sock.poll(10_000)
        reply = sock.recv()
    finally:
        context.destroy(linger=0)
    assert reply[:6] == b"KVDH" + PROTOCOL_VERSION.to_bytes(2, "big")
    assert unpack(reply[6:]) == Refusal("protocol_version", str(PROTOCOL_VERSION), "2 or older")
    assert server.counters["refused"] == 1
    assert still_answers(server)


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
    for name in ("_AGAIN", "_REFUSED_FOR"):
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
    port = free_port()
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
