# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Two ends of the handshake over real sockets, and what strangers can do to it: nothing."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import zmq

from kvdirect.handshake import HandshakeServer, Offer, ask
from kvdirect.hosts import HostPolicy
from kvdirect.wire import MAX_MESSAGE, PROTOCOL_VERSION, Hello, Refusal, Welcome, pack, unpack
from kvtransfer.errors import ConfigError, ConnectError, MismatchError

FINGERPRINT = (
    ("protocol_version", "1"),
    ("model", "tiny"),
    ("dtype", "float32"),
    ("layout", "LBHNC"),
    ("g0.block_size", "128"),
)
HELLO = Hello("reader", 0, FINGERPRINT)
OFFER = Offer(incarnation=0xFEDCBA9876543210, fingerprint=FINGERPRINT, descriptor=b"secret descriptor")


@pytest.fixture
def server() -> Iterator[HandshakeServer]:
    server = HandshakeServer("127.0.0.1", 0, "owner")
    server.offer({0: OFFER})
    yield server
    server.close()


def eventually(server: HandshakeServer, counter: str, at_least: int) -> None:
    deadline = time.monotonic() + 10
    while server.counters[counter] < at_least:
        assert time.monotonic() < deadline, server.counters
        time.sleep(0.01)


def raw(port: int, *frames: bytes, wait_ms: int = 5000) -> bytes | None:
    """Send frames as they are; the reply, or None if there is none in time."""
    context = zmq.Context()
    try:
        sock = context.socket(zmq.DEALER)
        sock.setsockopt(zmq.LINGER, 1000)
        sock.connect(f"tcp://127.0.0.1:{port}")
        sock.send_multipart(list(frames))
        return sock.recv() if sock.poll(wait_ms) else None
    finally:
        context.destroy(linger=1000)


def still_answers(server: HandshakeServer) -> bool:
    return ask("127.0.0.1", server.port, HELLO, timeout=10).descriptor == OFFER.descriptor


def test_equal_engines_agree(server: HandshakeServer) -> None:
    welcome = ask("127.0.0.1", server.port, HELLO, timeout=10)
    assert welcome == Welcome("owner", OFFER.incarnation, FINGERPRINT, OFFER.descriptor)
    assert server.counters == {"welcomed": 1, "refused": 0, "dropped": 0}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "other"),
        ("dtype", "bfloat16"),
        ("g0.block_size", "64"),
        ("protocol_version", "2"),
        ("layout", "LBNHC"),
    ],
)
def test_mismatch_names_field_and_both_values_and_gives_nothing_away(
    server: HandshakeServer, field: str, value: str
) -> None:
    owner_value = dict(FINGERPRINT)[field]
    hello = Hello("reader", 0, tuple((key, value if key == field else old) for key, old in FINGERPRINT))
    with pytest.raises(MismatchError) as caught:
        ask("127.0.0.1", server.port, hello, timeout=10)
    assert f"{field} differs: {owner_value} at the owner, {value} at the reader" in str(caught.value)
    reply = raw(server.port, pack(hello))
    assert reply is not None
    assert OFFER.descriptor not in reply
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
            careless.send_multipart([identity, pack(Welcome("owner", 1, other, b"d"))])

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
    reply = raw(server.port, bytes(future))
    assert reply is not None
    assert unpack(reply) == Refusal("protocol_version", str(PROTOCOL_VERSION), str(PROTOCOL_VERSION + 7))
    assert still_answers(server)


@pytest.mark.parametrize(
    "frames",
    [
        (b"",),
        (b"garbage",),
        (b"KVDH\x00\x01" + b"\xc1" * 40,),
        (b"\x80\x04\x95pickle",),
        (pack(Refusal("a", "b", "c")),),
        # {"x": [[[...]]]}, nested deeper than any decoder follows
        (b"KVDH\x00\x01" + b"\x81\xa1x" + b"\x91" * 200_000 + b"\xc0",),
        (b"one", b"two", b"three"),
    ],
)
def test_nonsense_is_dropped_and_counted(server: HandshakeServer, frames: tuple[bytes, ...]) -> None:
    assert raw(server.port, *frames, wait_ms=300) is None
    eventually(server, "dropped", 1)
    assert still_answers(server)


def test_oversize_ends_the_connection_not_the_server(server: HandshakeServer) -> None:
    assert raw(server.port, bytes(MAX_MESSAGE + 1), wait_ms=300) is None
    assert still_answers(server)
    assert server.counters["welcomed"] == 1


def test_bytes_that_are_not_even_zmq(server: HandshakeServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
    assert still_answers(server)


def test_unknown_rank(server: HandshakeServer) -> None:
    with pytest.raises(MismatchError, match="rank differs"):
        ask("127.0.0.1", server.port, Hello("reader", 3, FINGERPRINT), timeout=10)


def test_reader_waits_while_the_owner_starts() -> None:
    server = HandshakeServer("127.0.0.1", 0, "owner")
    try:
        with pytest.raises(ConnectError, match="not ready"):
            ask("127.0.0.1", server.port, HELLO, timeout=0.5)
        server.offer({0: OFFER})
        assert still_answers(server)
    finally:
        server.close()


def test_nobody_there() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        with pytest.raises(ConnectError, match="no answer"):
            ask("127.0.0.1", port, HELLO, timeout=0.5)


def test_a_taken_port_is_named_with_the_remedy(server: HandshakeServer) -> None:
    with pytest.raises(ConfigError) as caught:
        HandshakeServer("127.0.0.1", server.port, "second")
    assert f"kv_port={server.port}" in str(caught.value)
    assert "kv_port=0" in str(caught.value)
    assert still_answers(server)


def test_the_port_is_free_after_close() -> None:
    first = HandshakeServer("127.0.0.1", 0, "owner")
    first.close()
    first.close()
    second = HandshakeServer("127.0.0.1", first.port, "owner")
    second.close()


def test_only_loopback_is_listened_to(server: HandshakeServer) -> None:
    listening = []
    with open("/proc/net/tcp") as table:  # noqa: PTH123
        for line in list(table)[1:]:
            local, state = line.split()[1], line.split()[3]
            if state == "0A" and int(local.split(":")[1], 16) == server.port:
                listening.append(local.split(":")[0])
    assert listening == ["0100007F"]


def test_host_policy() -> None:
    policy = HostPolicy("10.1.1.1", ["prefill-0", "192.168.0.0/24", "10.9.9.9"])
    allowed = ["127.0.0.1", "127.8.8.8", "::1", "localhost", "10.1.1.1", "prefill-0", "192.168.0.77", "10.9.9.9"]
    refused = ["192.168.1.1", "10.9.9.8", "evil.example", "prefill-01", "", "169.254.169.254"]
    assert [host for host in allowed if not policy.allows(host)] == []
    assert [host for host in refused if policy.allows(host)] == []
