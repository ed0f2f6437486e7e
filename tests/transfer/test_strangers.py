# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Peers that speak to an engine's socket without its secret, or with it and out of turn."""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

import kvtransfer as kt

from . import frames
from .frames import Address, Id
from .harness import DEADLINE, Remote, listening_ports, until
from .layout import publish

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Here

# More than an engine lets wait for their hello.
CROWD = 300


def test_there_is_one_socket_and_it_listens_where_it_was_told(owner: Remote) -> None:
    address = Address.of(owner.descriptor)
    assert listening_ports(owner.process.pid) == [address.port]
    assert address.host == "127.0.0.1"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", address.port), timeout=5)


@pytest.mark.parametrize(
    "noise",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="http"),
        pytest.param(b"\xff" * 64, id="ones"),
        pytest.param(frames.frame(Id.PROBE), id="probe"),
        pytest.param(frames.frame(Id.BYE), id="bye"),
        pytest.param(frames.frame(Id.HELLO), id="empty hello"),
        pytest.param(frames.frame(Id.HELLO, b"\0" * 2000), id="long hello"),
        pytest.param(frames.frame(Id.DATA, b"\0" * 64), id="data"),
        pytest.param(frames.frame(Id.PROVE, b"short"), id="short question"),
        pytest.param(frames.frame(Id.DIGEST, b"\0" * 24), id="a digest"),
        pytest.param(struct.pack("<IBxxx", 1 << 31, Id.HELLO), id="announced gigabytes"),
        pytest.param(bytes(range(7, 251)) * 400, id="random"),
    ],
)
def test_a_stranger_is_cut_off(owner: Remote, noise: bytes) -> None:
    before = owner.call("digest")
    with Address.of(owner.descriptor).dial() as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(noise)
        assert frames.has_ended(sock)
    counters = owner.call("counters")
    assert counters["bad_message"] == 1
    assert counters["sessions"] == 0
    assert owner.call("digest") == before


def test_nothing_can_be_done_before_the_hello(owner: Remote) -> None:
    lease = owner.grant([4, 5], watermark=32, term=300.0)
    for message in (frames.complete(lease), frames.renew(lease), frames.pull(1, lease, [(0, 0, 64)])):
        with Address.of(owner.descriptor).dial() as sock:
            sock.sendall(message)
            assert frames.has_ended(sock)
    assert owner.call("take_ended") == []
    assert owner.call("live") == 1


@pytest.mark.parametrize("secret", [b"", b"x" * 32, b"x" * 256], ids=["empty", "wrong", "long"])
def test_a_wrong_secret_is_not_answered(owner: Remote, secret: bytes) -> None:
    address = replace(Address.of(owner.descriptor), key=secret)
    with address.dial() as sock, pytest.raises(EOFError):
        address.ask(sock, more=frames.frame(Id.PROBE))
    counters = owner.call("counters")
    assert (counters["bad_admission"], counters["sessions"]) == (1, 0)


@pytest.mark.parametrize("what", ["hello", "probe", "short answer", "long answer", "bye"])
def test_a_challenge_is_answered_and_nothing_else(owner: Remote, what: str) -> None:
    address = Address.of(owner.descriptor)
    said = {
        "hello": address.hello(),
        "probe": frames.frame(Id.PROBE),
        "bye": frames.frame(Id.BYE),
        "short answer": frames.frame(Id.ANSWER, bytes(31)),
        "long answer": frames.frame(Id.ANSWER, bytes(33)),
    }
    with address.dial() as sock:
        sock.sendall(address.hello())
        assert frames.receive(sock)[0] == Id.CHALLENGE
        sock.sendall(said[what])
        assert frames.has_ended(sock)
    counters = owner.call("counters")
    # A reader that is closed meanwhile says goodbye.
    assert (counters["bad_message"], counters["sessions"]) == (what != "bye", 0)


def test_a_challenge_is_good_for_its_own_connection(owner: Remote) -> None:
    """The right answer to another connection's challenge, with the same hello."""
    address = Address.of(owner.descriptor)
    with address.dial() as first, address.dial() as second:
        hello = address.hello()
        for sock in (first, second):
            sock.sendall(hello)
        answers = [frames.answer(address.key, hello, frames.receive(sock)[1]) for sock in (first, second)]
        first.sendall(answers[1])
        assert frames.has_ended(first)
        second.sendall(answers[1])
        assert frames.receive(second)[0] == Id.WELCOME
    assert owner.call("counters")["bad_admission"] == 1


def test_a_reader_of_another_version_is_told_both(owner: Remote) -> None:
    """In the form that all versions know, and before anything else."""
    address = Address.of(owner.descriptor)
    with address.dial() as sock:
        body = struct.pack("<IQQH", 3, address.incarnation, 1, 3) + b"raw" + struct.pack("<I", 32) + b"x" * 32
        sock.sendall(frames.frame(Id.HELLO, body + bytes(17)))
        message, body = frames.receive(sock)
        assert message == Id.REFUSE
        assert f"the reader has 3, the owner {kt.PROTOCOL_VERSION}".encode() in body


def test_who_looks_for_a_predecessor_is_told(owner: Remote) -> None:
    address = Address.of(owner.descriptor)
    with address.dial() as sock:
        message, body = address.ask(sock, incarnation=1)
        assert message == Id.REFUSE
        assert b"another one listens in its place" in body


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(frames.frame(Id.PROBE, b"x"), id="probe with a body"),
        pytest.param(frames.frame(Id.PULL, b"short"), id="short pull"),
        pytest.param(frames.frame(Id.COMPLETE, b"\0" * 16), id="complete by nobody"),
        pytest.param(frames.frame(Id.NOTE, struct.pack("<I", 1025) + bytes(1025)), id="a long note"),
        pytest.param(frames.frame(Id.NOTE, b"\xff" * 4), id="a short note"),
        pytest.param(frames.frame(Id.WELCOME), id="an owner's message"),
        pytest.param(frames.frame(Id.DATA, b"\0" * 64), id="data"),
        pytest.param(frames.frame(Id.PROVE, b"short"), id="short question"),
        pytest.param(frames.frame(Id.DIGEST, b"\0" * 24), id="a digest"),
        pytest.param(frames.frame(77), id="unknown"),
        pytest.param(struct.pack("<IBxxx", 1 << 20, Id.PULL), id="too long"),
        pytest.param("hello again", id="a second hello"),
        pytest.param(frames.frame(Id.ANSWER, bytes(32)), id="a second answer"),
    ],
)
def test_an_admitted_peer_that_talks_nonsense_is_cut_off(owner: Remote, reader: Here, message: bytes | str) -> None:
    peer = reader.connect(owner, "message")
    address = Address.of(owner.descriptor)
    with admitted(address) as sock:
        sock.sendall(message if isinstance(message, bytes) else address.hello())
        assert frames.has_ended(sock)
    until(lambda: owner.call("counters")["sessions_ended"] == 1, "its session is over")
    assert owner.call("counters")["bad_message"] == 1
    assert peer.alive


@pytest.mark.parametrize("wanted", [Id.PULL, Id.PROVE])
def test_an_admitted_peer_gets_only_what_it_holds_a_lease_on(owner: Remote, wanted: Id) -> None:
    """Neither the bytes nor a digest, which would tell whether they are what somebody guesses."""
    lease = owner.grant([4, 5], watermark=32, term=300.0)
    stale = kt.LeaseRef(lease.slot, lease.epoch ^ 1)
    whole = owner.layout.make(owner.seed).tobytes()
    start = owner.layout.make(owner.seed)[:, :, 4].nbytes  # somewhere within the region
    with admitted(Address.of(owner.descriptor)) as sock:
        for number, (ref, run) in enumerate(
            [
                (stale, (0, start, 64)),
                (lease, (0, 0, len(whole))),
                (lease, (0, (1 << 64) - 8, 64)),
                (lease, (7, 0, 64)),
                (lease, (0, len(whole) - 8, 64)),
            ],
            start=1,
        ):
            sock.sendall(frames.pull(number, ref, [run], message=wanted))
            message, body = frames.receive(sock)
            assert message == Id.VERDICT
            assert struct.unpack_from("<QB", body)[0] == number
            assert body[8] != 0, "refused"
        sock.sendall(frames.complete(stale) + frames.renew(stale) + frames.frame(Id.PROBE))
        assert frames.receive(sock)[0] == Id.PROOF
    counters = owner.call("counters")
    assert counters["bytes_served"] == 0
    assert counters["stale_epoch"] == 3
    assert owner.call("live") == 1


def test_a_peer_that_never_reads_its_answers_is_cut_off(owner: Remote) -> None:
    probes = frames.frame(Id.PROBE) * 10_000
    with admitted(Address.of(owner.descriptor)) as sock:
        until(lambda: not takes(sock, probes), "it is cut off")


@pytest.mark.parametrize("say_hello", [False, True], ids=["silent", "challenged"])
def test_a_crowd_of_strangers_keeps_no_reader_out(owner: Remote, reader: Here, say_hello: bool) -> None:
    lease = owner.grant([4, 5], watermark=32, term=300.0)
    address = Address.of(owner.descriptor)
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(address.dial()) for _ in range(CROWD)]
        for sock in crowd if say_hello else ():
            with contextlib.suppress(ConnectionError):  # it made room already
                sock.sendall(address.hello())
        assert frames.has_ended(crowd[0], within=5), "the oldest makes room, before its time is up"
        peer = reader.connect(owner, "message")
        peer.pull(lease, [[4, 5]], [[0, 1]], stop=32).wait(30)
        whole = owner.layout.make(owner.seed)
        np.testing.assert_array_equal(reader.cache[:, :, [0, 1]], whole[:, :, [4, 5]])
        assert all(frames.has_ended(sock, within=30) for sock in crowd), "strangers stay for ever"
    assert peer.alive


@pytest.mark.parametrize("milliseconds", [0, 1, 2, 4])
def test_an_owner_that_stalls_while_a_reader_connects_costs_only_time(owner: Remote, milliseconds: int) -> None:
    engine = kt.Engine(kt.EngineConfig(lanes=("message",)), name="reader")
    publish(engine, owner.layout.make(2))

    def stall() -> None:
        time.sleep(milliseconds / 1000)
        owner.process.signal(signal.SIGSTOP)
        time.sleep(2)
        owner.process.signal(signal.SIGCONT)

    stalling = threading.Thread(target=stall)
    stalling.start()
    try:
        assert engine.connect(owner.descriptor, timeout=DEADLINE).alive
    finally:
        stalling.join()
        engine.close()


def test_a_reader_says_how_far_it_got(owner: Remote) -> None:
    engine = kt.Engine(name="reader")
    publish(engine, owner.layout.make(2))
    owner.process.freeze()
    try:
        with pytest.raises(kt.ConnectError, match="connected, no answer yet"):
            engine.connect(owner.descriptor, timeout=0.5)
    finally:
        owner.process.signal(signal.SIGCONT)
        engine.close()


def test_an_owner_out_of_descriptors_serves_on_and_recovers(owner: Remote, reader: Here) -> None:
    """Whoever it cannot let in waits, and it does not spin meanwhile."""
    peer = reader.connect(owner, "message")
    lease = owner.grant([4], watermark=16, term=300.0)
    address = Address.of(owner.descriptor)
    held = owner.call("use_up_descriptors")
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(address.dial())
        before = owner.call("cpu_seconds")
        time.sleep(2)
        assert owner.call("cpu_seconds") - before < 1
        peer.pull(lease, [[4]], [[0]], stop=16).wait(30)
        assert held > 0
        owner.call("give_descriptors_back")
    assert reader.connect(owner, "message").alive


def takes(sock: socket.socket, data: bytes) -> bool:
    try:
        sock.sendall(data)
    except ConnectionError:
        return False
    return True


@contextlib.contextmanager
def admitted(address: Address) -> Iterator[socket.socket]:
    with address.dial() as sock:
        assert address.ask(sock)[0] == Id.WELCOME
        yield sock
