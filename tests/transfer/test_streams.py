# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Large pulls of the message lane that are spread over several connections of one session."""

from __future__ import annotations

import contextlib
import struct
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

import kvtransfer as kt

from . import frames
from .frames import Address, Id
from .harness import Remote, until, wire
from .layout import BIG, Layout
from .relay import Relay

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Here, Launch, MakeHere

BLOCKS = list(range(200))
STOP = len(BLOCKS) * BIG.block_size
# Rows of odd lengths, and more bytes than one connection is asked for alone.
ODD = Layout(layers=3, blocks=3500, block_size=7, heads=3, width=5)


@pytest.fixture
def pair(launch: Launch) -> Remote:
    """An owner that takes two connections for a session."""
    return launch(layout=BIG, message_streams=2)


@pytest.fixture
def reading(here: MakeHere) -> Here:
    return here(BIG, message_streams=2)


@pytest.mark.parametrize(("ours", "theirs"), [(1, 1), (1, 2), (2, 1), (2, 2), (3, 8), (8, 8)])
def test_both_sides_agree_on_the_lower_number_and_the_bytes_are_right(
    launch: Launch, here: MakeHere, ours: int, theirs: int
) -> None:
    owner, reader = launch(layout=ODD, message_streams=theirs), here(ODD, message_streams=ours)
    random = np.random.default_rng(ours * 10 + theirs)
    # Stretches of neighbours of many lengths, so that runs are merged to many lengths.
    stretches = np.split(np.arange(ODD.blocks), np.sort(random.choice(np.arange(1, ODD.blocks), 60, replace=False)))
    remote = np.concatenate([stretches[i] for i in random.permutation(len(stretches))])
    local = np.arange(ODD.blocks)[::-1].copy() if ours == 3 else np.arange(ODD.blocks)
    start, stop = 3, ODD.blocks * ODD.block_size - 2
    lease = owner.grant(remote.tolist(), watermark=ODD.blocks * ODD.block_size, term=300.0)
    with Relay(owner.descriptor) as relay:
        peer = reader.engine.connect(relay.descriptor, lanes=("message",))
        strands = relay.expect(min(ours, theirs))
        result = peer.pull(lease, [remote], [local], start=start, stop=stop).wait(60)
        whole = owner.layout.make(owner.seed)
        expected = reader.before.copy()
        expected[:, :, local] = whole[:, :, remote]
        expected[:, :, local[0], :start] = reader.before[:, :, local[0], :start]
        expected[:, :, local[-1], -2:] = reader.before[:, :, local[-1], -2:]
        np.testing.assert_array_equal(reader.cache, expected)
        assert peer.alive
        used = [strand for strand in strands if strand.to_reader > 100_000]
        assert len(used) == min(len(strands), result.bytes // (1 << 20)), "every connection carried a portion"
        peer.close()
    until(lambda: owner.call("counters")["sessions_ended"] == 1, "the session is over")
    counters = owner.call("counters")
    assert (counters["sessions"], counters["pulls_served"]) == (1, 1), "one pull of one session"
    assert counters["bytes_served"] == result.bytes
    assert (reader.engine.counters()["pulls_ok"], reader.engine.counters()["bytes_pulled"]) == (1, result.bytes)


def test_a_small_pull_stays_on_the_first_connection(pair: Remote, reading: Here) -> None:
    lease = pair.grant([4], watermark=16, term=300.0)
    with Relay(pair.descriptor) as relay:
        peer = reading.engine.connect(relay.descriptor, lanes=("message",))
        _first, second = relay.expect(2)
        before = second.to_reader
        peer.pull(lease, [[4]], [[0]], stop=16).wait(30)
        assert second.to_reader == before


@pytest.mark.parametrize("lost", [0, 1], ids=["first", "second"])
def test_a_connection_lost_in_the_middle_fails_the_pull(pair: Remote, reading: Here, lost: int, tmp_path: Path) -> None:
    pair.call("stall_next_pull", file=str(tmp_path / "stall"))
    lease = pair.grant(BLOCKS, watermark=STOP, term=300.0)
    with Relay(pair.descriptor) as relay:
        peer = reading.engine.connect(relay.descriptor, lanes=("message",))
        strands = relay.expect(2)
        running = peer.pull(lease, [BLOCKS], [BLOCKS], stop=STOP, timeout=60.0)
        until((tmp_path / "stall").exists, "the pull stands half-way")
        assert not running.done
        strands[lost].cut()
        with pytest.raises(kt.PeerLost, match="the owner"):
            running.wait(30)
        until(lambda: running.quiet, "nothing can land any more")
        until(lambda: not peer.alive, "the session is over for the reader")
        assert strands[1 - lost].ended.wait(30), "the other connection ends with it"
        (tmp_path / "stall").unlink()
    until(lambda: pair.call("counters")["sessions_ended"] == 1, "the session is over for the owner")
    with pytest.raises(kt.PeerLost):
        peer.pull(lease, [[4]], [[0]], stop=16)
    again = reading.connect(pair, "message")
    assert again.pull(lease, [BLOCKS], [BLOCKS], stop=STOP).wait(30).bytes > 0


@pytest.mark.parametrize("lost", [0, 1], ids=["first", "second"])
def test_a_reader_that_loses_one_connection_gives_up_the_others(pair: Remote, reading: Here, lost: int) -> None:
    """The owner has not noticed anything."""
    lease = pair.grant(BLOCKS, term=300.0)
    with Relay(pair.descriptor) as relay:
        peer = reading.engine.connect(relay.descriptor, lanes=("message",))
        strands = relay.expect(2)
        running = peer.pull(lease, [BLOCKS], [BLOCKS], stop=STOP, timeout=60.0)
        strands[lost].cut_off_reader()
        with pytest.raises(kt.PeerLost, match="the owner"):
            running.wait(30)
        until(lambda: running.quiet and not peer.alive, "the session is over for the reader")
        assert strands[1 - lost].ended.wait(30)


def test_one_portion_without_a_valid_verdict_makes_the_whole_pull_invalid(pair: Remote, reading: Here) -> None:
    """The first connection's portion is valid when the lease ends; the second one's was not asked for yet."""
    lease = pair.grant(BLOCKS, watermark=STOP, term=300.0)
    with Relay(pair.descriptor) as relay:
        peer = reading.engine.connect(relay.descriptor, lanes=("message",))
        _first, second = relay.expect(2)
        second.hold_back_requests()
        running = peer.pull(lease, [BLOCKS], [BLOCKS], stop=STOP, timeout=60.0)
        until(lambda: pair.call("counters")["pulls_served"] == 1, "the first portion is through")
        assert not running.done
        assert pair.call("revoke_and_overwrite", lease=wire(lease), blocks=BLOCKS, value=7)
        second.let_requests_through()
        with pytest.raises(kt.LeaseExpired):
            running.wait(30)
        until(lambda: running.quiet, "nothing can land any more")
        assert peer.alive
    assert reading.engine.counters()["pulls_failed"] == 1
    assert reading.engine.counters()["pulls_ok"] == 0


def test_a_lease_that_ends_in_the_middle_is_noticed_on_every_connection(
    pair: Remote, reading: Here, tmp_path: Path
) -> None:
    pair.call("stall_next_pull", file=str(tmp_path / "stall"))
    lease = pair.grant(BLOCKS, watermark=STOP, term=300.0)
    peer = reading.connect(pair, "message")
    running = peer.pull(lease, [BLOCKS], [BLOCKS], stop=STOP, timeout=60.0)
    until((tmp_path / "stall").exists, "the pull stands half-way")
    pair.call("revoke", lease=wire(lease))
    (tmp_path / "stall").unlink()
    with pytest.raises(kt.LeaseExpired):
        running.wait(30)
    until(lambda: running.quiet, "nothing can land any more")
    assert peer.alive


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_a_pull_given_up_in_the_middle_leaves_the_destination_quiet(
    pair: Remote, reading: Here, how: str, tmp_path: Path
) -> None:
    pair.call("stall_next_pull", file=str(tmp_path / "stall"))
    lease = pair.grant(BLOCKS, watermark=STOP, term=300.0)
    peer = reading.connect(pair, "message")
    running = peer.pull(lease, [BLOCKS], [BLOCKS], stop=STOP, timeout=2.0 if how == "deadline" else 60.0)
    until((tmp_path / "stall").exists, "the pull stands half-way")
    if how == "cancel":
        running.cancel()
    with pytest.raises(kt.PullCancelled if how == "cancel" else kt.PullTimeout):
        running.wait(30)
    until(lambda: running.quiet, "nothing can land any more")
    reading.cache[:] = 42
    (tmp_path / "stall").unlink()
    # What was still under way on either connection would land before this one ends.
    half = BLOCKS[:100]
    peer.pull(lease, [half], [half], stop=STOP // 2, timeout=60.0).wait(30)
    expected = np.full_like(reading.cache, 42)
    expected[:, :, half] = pair.layout.make(pair.seed)[:, :, half]
    np.testing.assert_array_equal(reading.cache, expected)


def test_the_watermark_is_waited_for_on_every_connection(pair: Remote, reading: Here) -> None:
    lease = pair.grant(BLOCKS, term=300.0)
    running = reading.connect(pair, "message").pull(lease, [BLOCKS], [BLOCKS], stop=STOP, timeout=60.0)
    time.sleep(0.2)
    assert not running.done
    pair.call("raise_watermark", lease=wire(lease), positions=STOP)
    running.wait(30)
    assert (reading.cache[:, :, BLOCKS] == pair.layout.make(pair.seed)[:, :, BLOCKS]).all()


# ---- hellos by hand ------------------------------------------------------------------------------------------------


def test_a_second_connection_of_a_session_carries_data_and_ends_with_it(pair: Remote) -> None:
    lease = pair.grant([4, 5], watermark=32, term=300.0)
    address = Address.of(pair.descriptor)
    with admitted(address) as (first, nonce):
        with joined(address, nonce) as second:
            second.sendall(frames.pull(1, lease, [(0, 4 * BIG.block_size * BIG.heads * BIG.width * 4, 64)]))
            message, body = frames.receive(second)
            assert message == Id.DATA
            assert body[16:] == pair.layout.make(pair.seed)[0, 0, 4].tobytes()[:64]
            assert frames.receive(second)[0] == Id.VERDICT
            assert pair.call("counters")["sessions"] == 1
        assert frames.receive(first)[0] == Id.BYE
        assert frames.has_ended(first)
    with admitted(address) as (first, nonce), joined(address, nonce) as second:
        first.sendall(frames.frame(Id.BYE))
        assert frames.receive(second)[0] == Id.BYE
        assert frames.has_ended(second)
    until(lambda: pair.call("counters")["sessions_ended"] == 2, "both are over, and counted once")


def test_a_second_connection_needs_the_secret(pair: Remote) -> None:
    address = Address.of(pair.descriptor)
    with admitted(address) as (first, nonce):
        with address.dial() as sock, pytest.raises(EOFError):
            replace(address, key=b"x" * 32).ask(sock, stream=1, session=nonce)
        assert pair.call("counters")["bad_admission"] == 1
        assert still_there(first)
        with joined(address, nonce):
            pass  # the place was not taken


@pytest.mark.parametrize(
    ("stream", "wrong", "why"),
    [
        pytest.param(1, True, b"no such session", id="of nobody"),
        pytest.param(2, False, b"stream 2 of a session; this owner takes 2", id="beyond the owner's"),
        pytest.param(7, True, b"this owner takes 2", id="the last there may be"),
    ],
)
def test_a_second_connection_that_belongs_nowhere_is_refused(
    pair: Remote, stream: int, wrong: bool, why: bytes
) -> None:
    address = Address.of(pair.descriptor)
    with admitted(address) as (first, nonce):
        session = bytes(byte ^ 1 for byte in nonce) if wrong else nonce
        with address.dial() as sock:
            message, body = address.ask(sock, stream=stream, session=session)
            assert message == Id.REFUSE
            assert why in body
            sock.sendall(frames.frame(Id.PROBE))  # says nothing to one who was refused
        assert still_there(first)
    assert pair.call("counters")["bad_token"] == (stream == 1)
    assert pair.call("counters")["sessions"] == 1


def test_a_stream_number_out_of_range_is_nonsense(pair: Remote) -> None:
    address = Address.of(pair.descriptor)
    with admitted(address) as (first, nonce):
        with address.dial() as sock:
            sock.sendall(address.hello(stream=8, session=nonce))
            assert frames.has_ended(sock)
        assert still_there(first)
    assert pair.call("counters")["bad_message"] == 1


def test_a_session_has_each_of_its_connections_once(pair: Remote) -> None:
    address = Address.of(pair.descriptor)
    with admitted(address) as (first, nonce), joined(address, nonce), address.dial() as sock:
        message, body = address.ask(sock, stream=1, session=nonce)
        assert message == Id.REFUSE
        assert b"has its stream 1 already" in body
        assert still_there(first)


def test_an_owner_of_one_stream_takes_no_second(launch: Launch) -> None:
    address = Address.of(launch(message_streams=1).descriptor)
    with address.dial() as first, address.dial() as second:
        body = address.ask(first)[1]
        assert body[16] == 1, "how many it takes"
        assert address.ask(second, stream=1, session=body[:16])[0] == Id.REFUSE


@pytest.mark.parametrize("end", [True, False], ids=["after its first ended", "while its first is there"])
def test_a_session_that_is_over_has_no_second_connection(pair: Remote, end: bool) -> None:
    address = Address.of(pair.descriptor)
    with admitted(address) as (first, nonce):
        if end:
            first.sendall(frames.frame(Id.BYE))
            assert frames.has_ended(first)
            until(lambda: pair.call("counters")["sessions_ended"] == 1, "the owner has heard")
        with address.dial() as sock:
            assert address.ask(sock, stream=1, session=nonce)[0] == (Id.REFUSE if end else Id.WELCOME)


def test_nothing_follows_the_answer_of_a_second_connection_before_its_welcome(pair: Remote) -> None:
    lease = pair.grant([4, 5], watermark=32, term=300.0)
    address = Address.of(pair.descriptor)
    for more in (frames.pull(1, lease, [(0, 0, 64)]), b"\0\0"):
        with admitted(address) as (first, nonce):
            with address.dial() as sock, pytest.raises(EOFError):
                address.ask(sock, more=more, stream=1, session=nonce)
            assert still_there(first)
    assert pair.call("counters")["bad_message"] == 2
    assert pair.call("counters")["bytes_served"] == 0


@pytest.mark.parametrize("what", ["probe", "renew", "complete", "hello", "data", "unknown"])
def test_a_second_connection_carries_pulls_and_nothing_else(pair: Remote, what: str) -> None:
    lease = pair.grant([4, 5], watermark=32, term=300.0)
    address = Address.of(pair.descriptor)
    with admitted(address) as (first, nonce), joined(address, nonce) as second:
        messages = {
            "probe": frames.frame(Id.PROBE),
            "renew": frames.renew(lease),
            "complete": frames.complete(lease),
            "hello": address.hello(stream=1, session=nonce),
            "data": frames.frame(Id.DATA, b"\0" * 64),
            "unknown": frames.frame(77),
        }
        second.sendall(messages[what])
        assert frames.has_ended(second)
        assert frames.has_ended(first), "the session ends with any of its connections"
    assert pair.call("counters")["bad_message"] == 1
    assert pair.call("take_ended") == []


def test_a_second_connection_reads_only_what_is_leased(pair: Remote) -> None:
    lease = pair.grant([4, 5], watermark=32, term=300.0)
    address = Address.of(pair.descriptor)
    with admitted(address) as (_first, nonce), joined(address, nonce) as second:
        runs = [(0, 0, BIG.make(1).nbytes), (0, (1 << 64) - 8, 64), (7, 0, 64)]
        for number, run in enumerate(runs, start=1):
            second.sendall(frames.pull(number, lease, [run]))
            message, body = frames.receive(second)
            assert message == Id.VERDICT
            assert struct.unpack_from("<QB", body)[0] == number
            assert body[8] != 0, "refused"
    counters = pair.call("counters")
    assert (counters["bytes_served"], counters["refused_runs"]) == (0, 3)


def test_a_second_connection_that_carried_nothing_may_leave(pair: Remote) -> None:
    """Its reader may have given it up before it was let in, and the session is in order."""
    address = Address.of(pair.descriptor)
    with admitted(address) as (first, nonce):
        with joined(address, nonce) as second:
            second.sendall(frames.frame(Id.BYE))
            assert frames.has_ended(second)
        assert not frames.has_ended(first, within=0.5)
        assert still_there(first)


@contextlib.contextmanager
def admitted(address: Address) -> Iterator[tuple[socket.socket, bytes]]:
    """The first connection of a session, and the session's nonce."""
    with address.dial() as sock:
        message, body = address.ask(sock)
        assert message == Id.WELCOME
        assert body[16] == 2, "how many connections the owner takes"
        yield sock, body[:16]


@contextlib.contextmanager
def joined(address: Address, nonce: bytes) -> Iterator[socket.socket]:
    """Its second connection."""
    with address.dial() as sock:
        message, body = address.ask(sock, stream=1, session=nonce)
        assert message == Id.WELCOME
        assert body[:16] == nonce
        yield sock


def still_there(sock: socket.socket) -> bool:
    sock.sendall(frames.frame(Id.PROBE))
    return frames.receive(sock)[0] == Id.PROOF
