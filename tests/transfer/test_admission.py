# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Who is let in and by whom: what the wire shows is of no use, and a reader's own descriptor is good for it alone."""

from __future__ import annotations

import contextlib
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
from .harness import Remote, until
from .relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .conftest import Here, Launch, MakeHere

# Of a secret: less of it may occur by chance.
PIECE = 8


@pytest.mark.parametrize("with_pass", [False, True], ids=["secret", "pass"])
def test_a_recording_admits_nobody_and_holds_no_secret(launch: Launch, here: MakeHere, with_pass: bool) -> None:
    owner, reader = launch(message_streams=2), here(message_streams=2)
    descriptor = kt.descriptor_for(owner.descriptor, reader="r", valid_for=600) if with_pass else owner.descriptor
    lease = owner.grant([4, 5], watermark=32, term=300.0)
    with Relay(descriptor, record=True) as relay:
        peer = reader.engine.connect(relay.descriptor, lanes=("shm", "message"))
        strands = relay.expect(2)
        for lane in peer.lanes:
            peer.pull(lease, [[4, 5]], [[0, 1]], stop=32, lane=lane).wait(30)
        peer.close()
        until(lambda: owner.call("counters")["sessions_ended"] == 1, "the session is over")
    for key in (Address.of(owner.descriptor).key, Address.of(descriptor).key):
        for at in range(len(key) - PIECE + 1):
            for strand in strands:
                assert key[at : at + PIECE] not in strand.reader_said + strand.owner_said
    for number, strand in enumerate(strands, start=1):
        with Address.of(descriptor).dial() as sock:
            with contextlib.suppress(ConnectionError):
                sock.sendall(strand.reader_said)
            assert frames.has_ended(sock)
        assert owner.call("counters")["bad_admission"] == number
    assert owner.call("counters")["sessions"] == 1
    assert owner.call("live") == 1


@pytest.mark.parametrize("fake", ["a recording", "no challenge", "another key", "the reader's own proof"])
def test_who_took_an_owners_port_over_is_refused_by_the_reader(owner: Remote, reader: Here, fake: str) -> None:
    with Relay(owner.descriptor, record=True) as relay:
        reader.engine.connect(relay.descriptor, lanes=("message",)).close()
        until(lambda: bool(relay.strands), "the connection is relayed")
        said = bytes(relay.strands[0].owner_said)
    (length,) = struct.unpack_from("<I", said, 0)
    challenge, welcome = said[8 : 8 + length], said[8 + length :]
    bare = bytes(16) + b"\1" + bytes(4)

    def answer(sock: socket.socket) -> None:
        hello = frames.frame(*frames.receive(sock))
        if fake == "a recording":
            sock.sendall(said)
            return
        if fake != "no challenge":
            sock.sendall(frames.frame(Id.CHALLENGE, challenge))
            proof = frames.receive(sock)[1]
        if fake == "no challenge":
            sock.sendall(welcome)
        elif fake == "another key":
            seal = frames.labelled(b"x" * 32, b"kvdirect owner", hello[8:], challenge, bare)
            sock.sendall(frames.frame(Id.WELCOME, bare + seal))
        else:
            sock.sendall(frames.frame(Id.WELCOME, bare + proof))

    with played(owner.descriptor, answer) as descriptor:
        with pytest.raises(kt.ConnectError, match="does not have the owner's secret") as caught:
            reader.engine.connect(descriptor, timeout=10)
        assert "port" in caught.value.hint
    assert reader.engine.peers == ()


def test_a_reader_answers_one_challenge(owner: Remote, reader: Here) -> None:
    answers = []

    def answer(sock: socket.socket) -> None:
        frames.receive(sock)
        sock.sendall(frames.frame(Id.CHALLENGE, bytes(32)) * 2)
        with contextlib.suppress(EOFError):
            while (message := frames.receive(sock)[0]) != Id.BYE:
                answers.append(message)

    with played(owner.descriptor, answer) as descriptor, pytest.raises(kt.ConnectError):
        reader.engine.connect(descriptor, timeout=10)
    assert answers in ([Id.ANSWER], [])


# ---- descriptors for single readers --------------------------------------------------------------------------------


def test_a_readers_descriptor_admits_it_and_what_it_began_outlives_the_pass(owner: Remote, reader: Here) -> None:
    lease = owner.grant([4, 5], watermark=32, term=300.0)
    ends = time.time() + 3
    descriptor = kt.descriptor_for(owner.descriptor, reader="decode-1", valid_for=3)
    assert Address.of(owner.descriptor).key not in descriptor
    peer = reader.engine.connect(descriptor)
    until(lambda: time.time() > ends + 0.1, "the pass has ended")
    with pytest.raises(kt.ConnectError, match=r"pass ended .* ask for a fresh descriptor"):
        reader.engine.connect(descriptor)
    for lane in peer.lanes:
        reader.cache[:, :, [0, 1]] = 0
        peer.pull(lease, [[4, 5]], [[0, 1]], stop=32, lane=lane).wait(30)
        np.testing.assert_array_equal(reader.cache[:, :, [0, 1]], owner.layout.make(owner.seed)[:, :, [4, 5]])
    assert owner.call("counters")["bad_admission"] == 0


def test_a_session_gets_its_other_connections_after_the_pass_ended_and_nobody_elses(launch: Launch) -> None:
    owner = launch(message_streams=2)
    ends = time.time() + 2
    mine, others = (
        Address.of(kt.descriptor_for(owner.descriptor, reader=name, valid_for=2)) for name in ("mine", "other")
    )
    with mine.dial() as first, others.dial() as other, mine.dial() as second:
        nonce = mine.ask(first)[1][:16]
        message, body = others.ask(other, stream=1, session=nonce)
        assert (message, b"no such session" in body) == (Id.REFUSE, True)
        assert owner.call("counters")["bad_token"] == 1
        until(lambda: time.time() > ends + 0.1, "the pass has ended")
        assert mine.ask(second, stream=1, session=nonce)[0] == Id.WELCOME


@pytest.mark.parametrize("field", ["identity", "not_after", "key", "as the owner's"])
def test_a_pass_cannot_be_changed(owner: Remote, field: str) -> None:
    address = Address.of(kt.descriptor_for(owner.descriptor, reader="decode-1", valid_for=60))
    changed = {
        "identity": replace(address, identity=b"decode-2"),
        "not_after": replace(address, not_after=address.not_after + 1),
        "key": replace(address, key=bytes(32)),
        "as the owner's": replace(address, identity=b"", not_after=0),
    }
    with changed[field].dial() as sock, pytest.raises(EOFError):
        changed[field].ask(sock)
    assert owner.call("counters")["bad_admission"] == 1


def test_a_readers_descriptor_is_made_of_the_owners_only(owner: Remote) -> None:
    passed_on = kt.descriptor_for(owner.descriptor, reader="decode-1", valid_for=60)
    with pytest.raises(kt.ConfigError, match="cannot pass it on"):
        kt.descriptor_for(passed_on, reader="decode-2", valid_for=60)
    with pytest.raises(kt.CodecError):
        kt.descriptor_for(owner.descriptor[:-1], reader="decode-2", valid_for=60)
    for name in ("", "x" * 65, "\N{EURO SIGN}" * 22):
        with pytest.raises(kt.ConfigError, match="1 to 64 bytes"):
            kt.descriptor_for(owner.descriptor, reader=name, valid_for=60)
    for seconds in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(kt.ConfigError, match="valid_for"):
            kt.descriptor_for(owner.descriptor, reader="decode-2", valid_for=seconds)
    assert kt.descriptor_for(owner.descriptor, reader="x" * 64, valid_for=1e300)


@contextlib.contextmanager
def played(descriptor: bytes, answer: Callable[[socket.socket], None]) -> Iterator[bytes]:
    """Somebody who has an owner's port, and answers each connection so."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                with sock:
                    sock.settimeout(20)
                    answer(sock)
                    frames.has_ended(sock)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Address.moved(descriptor, listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(30)
