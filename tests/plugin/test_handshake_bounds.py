# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What a stranger, or a hostile owner, may send, keep and cost; the numbers are those of docs/security.md."""

from __future__ import annotations

import contextlib
import logging
import re
import resource
import socket
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec
import pytest
from handshake_owner import FINGERPRINT, HELLO, OwnerProcess, welcome

from kvdirect.fingerprint import PROTOCOL_VERSION
from kvdirect.handshake import connection, decision, server
from kvdirect.handshake.client import ask
from kvdirect.handshake.crowd import MOST_CONNECTIONS, most_connections
from kvdirect.handshake.frames import HEADER, MAGIC, framed
from kvdirect.handshake.messages import (
    MAX_ANSWER,
    MAX_HELLO,
    RUNNING,
    Hello,
    Refusal,
    Resolve,
    digest,
    pack,
)
from kvdirect.handshake.server import HandshakeServer
from kvtransfer.errors import ConfigError, ConnectError, MismatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUESTION = framed(pack(HELLO))
MANY = 1024  # descriptors of 1 KiB, more than the kernel keeps for one who does not read


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """Connections at once."""
    monkeypatch.setattr(server, "most_connections", lambda: 8)
    return 8


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines of a fraction of a second."""
    monkeypatch.setattr(connection, "HELLO_SECONDS", 0.5)
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.5)


@pytest.fixture
def owner() -> Iterator[HandshakeServer]:
    owner = HandshakeServer("127.0.0.1", 0)
    owner.offer(welcome(MANY))
    yield owner
    owner.close()


@contextlib.contextmanager
def stranger(port: int, said: bytes = b"", source: str = "127.0.0.1") -> Iterator[socket.socket]:
    """Connected from an address, and having said this."""
    with socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(source, 0)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(said)
        yield sock


def is_cut_off(sock: socket.socket) -> bool:
    """Whether the owner ends this connection."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


def still_answers(owner: HandshakeServer) -> bool:
    return ask("127.0.0.1", owner.port, HELLO, timeout=20) == welcome(MANY)


def until(done: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not done() and time.monotonic() < deadline:
        time.sleep(0.01)
    return done()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 50, "not_ours"),
        (b"\x80\x04\x95pickle" + bytes(100), "not_ours"),
        (HEADER.pack(MAGIC, 0, 5), "not_ours"),
        (HEADER.pack(MAGIC, PROTOCOL_VERSION, MAX_HELLO + 1), "too_large"),
        (HEADER.pack(MAGIC, PROTOCOL_VERSION, 0xFFFFFFFF) + bytes(1 << 20), "too_large"),
        (framed(b""), "malformed"),
        (framed(b"\xc1" * 40), "malformed"),
        (framed(pack(Refusal("a", "b", "c"))), "malformed"),
        (framed(pack(welcome(2))), "malformed"),
        # {"x": [[[...]]]}, nested deeper than any decoder follows
        (framed(b"\x81\xa1x" + b"\x91" * (MAX_HELLO - 10) + b"\xc0"), "malformed"),
        (framed(b"\xdd\xff\xff\xff\xff" + bytes(100)), "malformed"),
        (framed(msgspec.msgpack.encode({"type": "hello", "engine_id": "x", "fingerprint": [["a", "b"]] * 65})),
         "malformed"),
    ],
)  # fmt: skip
def test_nonsense_ends_the_connection_and_is_counted(owner: HandshakeServer, said: bytes, reason: str) -> None:
    with stranger(owner.port) as sock:
        with contextlib.suppress(OSError):  # cut off before all of it was said
            sock.sendall(said)
        assert is_cut_off(sock)
    assert owner.dropped == {reason: 1}
    assert owner.counters == {"welcomed": 0, "refused": 0, "dropped": 1}
    assert still_answers(owner)


def test_questions_that_are_held_keep_nobody_out(few: int) -> None:
    owner = HandshakeServer("127.0.0.1", 0, resolve=lambda claims, _: (RUNNING,) * len(claims))
    question = framed(pack(Resolve(("a" * 32,), unlike=digest([RUNNING]), hold_ms=1000)))
    try:
        owner.offer(welcome(MANY))
        with contextlib.ExitStack() as stack:
            for _ in range(2 * few):
                stack.enter_context(stranger(owner.port, question))
            assert until(lambda: owner.dropped["made_room"] >= few)
            assert still_answers(owner)
            assert until(lambda: not any(one.held for one in owner._crowd))  # answered as it is, after a second
        assert set(owner.dropped) == {"made_room"}
    finally:
        owner.close()


def test_the_largest_hello_is_read_and_a_byte_more_is_not(owner: HandshakeServer) -> None:
    fill = (*FINGERPRINT[:1], ("model", "m" * 4000), ("dtype", "d" * 4000), ("a", "a" * 4000), ("b", "b" * 1000))
    room = MAX_HELLO - len(pack(Hello("reader", (*fill, ("c", "c" * 1000))))) + 1000
    largest = Hello("reader", (*fill, ("c", "c" * room)))
    assert len(pack(largest)) == MAX_HELLO
    with pytest.raises(MismatchError, match="model differs"):
        ask("127.0.0.1", owner.port, largest, timeout=20)
    with pytest.raises(ConnectError, match=f"our hello takes {MAX_HELLO + 1} bytes, and owners take in {MAX_HELLO}"):
        ask("127.0.0.1", owner.port, Hello("reader+", largest.fingerprint), timeout=20)
    with pytest.raises(ConnectError, match=r"owners take in no such hello .* length <= 4096"):
        ask("127.0.0.1", owner.port, Hello("reader", (("model", "m" * 5000),)), timeout=20)


def test_a_hello_that_is_as_hard_as_can_be_is_answered_within_the_bound() -> None:
    """100 ms of one stranger's work would be too much for the others."""
    answers = decision.Decision()
    answers.offer(welcome(1))
    for body in (
        pack(Hello("r", tuple((str(i), "x" * 240) for i in range(64)))),
        b"\x93" * MAX_HELLO,
        b"\x81\xa1x" + b"\x91" * (MAX_HELLO - 3),
        msgspec.msgpack.encode({"type": "hello", "engine_id": "x", "fingerprint": [], "y": [0] * 16000}),
        msgspec.msgpack.encode({"type": "hello", "engine_id": "x", "fingerprint": [{}] * 16000}),
    ):
        assert len(body) <= MAX_HELLO
        began = time.thread_time()
        with contextlib.suppress(ValueError):
            answers.answer(body, "somebody")
        assert time.thread_time() - began < 0.05


@pytest.mark.usefixtures("brief")
def test_who_says_nothing_or_little_is_cut_off_in_time(owner: HandshakeServer) -> None:
    began = time.monotonic()
    with stranger(owner.port) as silent, stranger(owner.port, QUESTION[:-1]) as slow:
        # A byte now and then moves no deadline.
        with (
            stranger(owner.port, HEADER.pack(MAGIC, PROTOCOL_VERSION, MAX_HELLO)) as dripping,
            contextlib.suppress(OSError),
        ):
            while time.monotonic() - began < 10:
                dripping.sendall(b"\0")
                time.sleep(0.05)
        assert is_cut_off(silent)
        assert is_cut_off(slow)
    assert time.monotonic() - began < 5
    assert owner.dropped == {"late": 3}


@pytest.mark.usefixtures("brief")
def test_an_answer_that_nobody_reads_is_forgotten_by_the_kernel_too(owner: HandshakeServer) -> None:
    with stranger(owner.port, QUESTION), stranger(owner.port, QUESTION) as half, stranger(owner.port, QUESTION):
        half.shutdown(socket.SHUT_WR)
        assert until(lambda: owner.dropped == {"late": 3})
        assert sockets_at(owner.port) == {"listening": 1}


def sockets_at(port: int) -> dict[str, int]:
    """TCP sockets of this machine's that have this port, by state; those that only wait out their time are left out."""
    states = {"0A": "listening", "06": "", "01": "connected"}
    found: dict[str, int] = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, state = line.split()[1], line.split()[3]
        if int(local.split(":")[1], 16) == port and (name := states.get(state, state)):
            found[name] = found.get(name, 0) + 1
    return found


def test_the_oldest_that_said_nothing_makes_room(owner: HandshakeServer, few: int) -> None:
    owner.close()
    owner = HandshakeServer("127.0.0.1", 0)
    owner.offer(welcome(MANY))
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(stranger(owner.port, QUESTION[: number % 9])) for number in range(few)]
        assert until(lambda: sockets_at(owner.port).get("connected") == few)
        assert still_answers(owner)
        assert is_cut_off(silent[0])
        assert still_answers(owner)
        for sock in silent[2:]:
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recv(1)
    assert owner.dropped["made_room"] <= 2  # the last of them may have taken the place of the first reader
    owner.close()


def test_one_partys_excess_takes_no_place_of_another(few: int) -> None:
    """A reader that takes its answer in slowly is not the one who makes room for a crowd from another address."""
    owner = HandshakeServer("127.0.0.1", 0)
    owner.offer(welcome(MANY))
    with socket.create_connection(("127.0.0.1", owner.port), timeout=20) as reader, contextlib.ExitStack() as stack:
        reader.sendall(QUESTION)
        assert reader.recv(HEADER.size, socket.MSG_WAITALL)[:4] == MAGIC
        for _ in range(5 * few):
            stack.enter_context(stranger(owner.port, QUESTION, source="127.0.0.2"))
        assert until(lambda: owner.dropped["made_room"] >= 4 * few)
        left = len(pack(welcome(MANY)))
        while left:
            left -= len(reader.recv(65536))
    assert owner.dropped.keys() <= {"made_room", "gone"}
    owner.close()


def test_the_cap_is_a_share_of_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, most in ((64, 8), (1024, 128), (1 << 20, MOST_CONNECTIONS), (resource.RLIM_INFINITY, MOST_CONNECTIONS)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        assert most_connections() == most


@pytest.fixture
def log(tmp_path: Path) -> Iterator[IO[str]]:
    with (tmp_path / "log").open("w+") as log:
        yield log


def test_without_descriptors_nothing_spins_and_readers_come_in_again(log: IO[str]) -> None:
    with OwnerProcess(1, log, most_files=64) as owner:
        owner.tell("take")
        used = owner.processor_seconds()
        with pytest.raises(ConnectError, match="no answer in time"):
            ask("127.0.0.1", owner.port, HELLO, timeout=2)
        assert owner.processor_seconds() - used < 0.5
        owner.tell("give")
        assert ask("127.0.0.1", owner.port, HELLO, timeout=20) == welcome(1)
        log.seek(0)
        lines = log.read().splitlines()
        assert 1 <= len(lines) <= 5
        assert "a reader waits to be accepted: Too many open files" in lines[0]


def test_without_descriptors_a_stranger_makes_room_for_a_reader(log: IO[str]) -> None:
    with OwnerProcess(1, log, most_files=64) as owner, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(stranger(owner.port)) for _ in range(4)]
        assert until(lambda: sockets_at(owner.port).get("connected") == 4)
        time.sleep(0.2)  # until all of them are accepted
        owner.tell("take")
        for _ in range(3):
            assert ask("127.0.0.1", owner.port, HELLO, timeout=20) == welcome(1)
        assert is_cut_off(idle[0])
        assert owner.close()["made_room"] >= 1


def test_refusals_cost_a_line_a_second_with_the_number_of_the_others(
    owner: HandshakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    refused = Hello("reader", (*FINGERPRINT[:1], ("model", "other\n" * 100)))
    began = time.monotonic()
    for _ in range(500):
        with pytest.raises(MismatchError):
            ask("127.0.0.1", owner.port, refused, timeout=20)
    seconds = time.monotonic() - began
    time.sleep(1.1)  # the next line tells of all that were left out
    with pytest.raises(MismatchError):
        ask("127.0.0.1", owner.port, refused, timeout=20)
    said = dict.fromkeys(record.getMessage() for record in caplog.records)  # whoever propagates has them twice
    lines = [line for line in said if re.search(r"refused a reader: model .* there, at 127.0.0.1:\d+", line)]
    assert 2 <= len(lines) <= seconds + 4
    left_out = [int(found[1]) for line in lines if (found := re.search(r"\((\d+) more like it", line))]
    assert len(lines) + sum(left_out) == 501
    assert all("\n" not in line and len(line) < 1000 for line in lines)
    assert owner.counters["refused"] == 501


class HostileOwner:
    """Answers one reader with these bytes, the last of them for ever."""

    def __init__(self, first: bytes, then: bytes, pause: float = 0.0) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.sent = 0
        self._thread = threading.Thread(target=self._answer, args=(first, then, pause))
        self._thread.start()

    def _answer(self, first: bytes, then: bytes, pause: float) -> None:
        with self._listening, self._listening.accept()[0] as sock, contextlib.suppress(OSError):
            sock.sendall(first)
            while True:
                self.sent += sock.send(then)
                time.sleep(pause)

    def close(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()


def test_a_reader_takes_in_no_more_than_an_answer() -> None:
    """Whatever an owner announces, and whatever it sends behind what it announced."""
    flooding = HostileOwner(HEADER.pack(MAGIC, PROTOCOL_VERSION, MAX_ANSWER + 1), bytes(1 << 20))
    with pytest.raises(ConnectError, match=f"{MAX_ANSWER + 1} bytes, at most {MAX_ANSWER} are read"):
        ask("127.0.0.1", flooding.port, HELLO, timeout=20)
    flooding.close()
    assert flooding.sent < 16 << 20  # what fits into the kernel's buffers
    flooding = HostileOwner(framed(pack(welcome(1))), bytes(1 << 20))
    assert ask("127.0.0.1", flooding.port, HELLO, timeout=20) == welcome(1)
    flooding.close()
    assert flooding.sent < 16 << 20


def test_a_reader_waits_no_longer_than_it_may_whatever_drips() -> None:
    for first in (b"", framed(pack(welcome(100)))[:1000]):
        dripping = HostileOwner(first, b"K", pause=0.02)
        began = time.monotonic()
        with pytest.raises(ConnectError, match=r"no answer in time|makes no sense"):
            ask("127.0.0.1", dripping.port, HELLO, timeout=1)
        assert time.monotonic() - began < 3
        dripping.close()


def test_an_offer_that_no_reader_would_take_is_refused_at_the_owner(owner: HandshakeServer) -> None:
    with pytest.raises(ConfigError, match=f"for 33000 workers takes .* readers read {MAX_ANSWER}"):
        owner.offer(welcome(33_000))
    assert still_answers(owner)
