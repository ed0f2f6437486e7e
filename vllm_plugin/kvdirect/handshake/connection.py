# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""One connection to the handshake port: takes in one hello, sends one answer, and waits until the reader has gone.

Each step is bounded in bytes a turn, and all of them together in time, whatever the other side does or does not do.
"""

from __future__ import annotations

import os
import selectors
import socket
import ssl
import struct
import time
from typing import TYPE_CHECKING, Literal

from kvdirect.hosts import endpoint
from kvdirect.keys.tls import Credentials
from kvdirect.parties import party_of

from .frames import TLS_HELLO, Fault, FrameError, FrameReader, HttpQueryError, OtherVersionError, TlsError
from .messages import MAX_HELLO, Resolve
from .neighbour import Neighbours

if TYPE_CHECKING:
    from .decision import Decision

# Seconds from a connection's start to its last byte of hello, and from there until it has ended.
HELLO_SECONDS = 5.0
ANSWER_SECONDS = 30.0
# Bytes that are sent in one turn, and taken in and thrown away behind an answer: a reader that is still sending would
# lose the answer if the connection ended with bytes unread.
SENT_A_TURN = 256 << 10
MAX_BEHIND = 64 << 10
_READS_A_TURN = 4
# TLS reads before it writes, and the other way round, in its own handshake only, where the kernel takes what little it
# writes.
_WAITS = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_FORGET = struct.pack("ii", 1, 0)

# Who is heard: who has a listed key, our user's processes on this machine, or anybody.
Audience = Credentials | Neighbours | None
# How a connection ended. "done": its reader had its answer. Label values, so there are no others.
End = Literal[Fault, "done", "gone", "late", "made_room", "failed"]


class Connection:
    """A stranger until its hello is complete; where keys are needed, one whose key is listed.

    Attributes:
        held: The question that it has asked and that waits for news, None if it has no such.
        claims: What the last one was after.
        stranger: It is one still.
        reader: Its address and port.
        party: Its address; for IPv6 the network, of which one machine has all addresses.
        deadline: When it is ended, by `time.monotonic()`.
        waits_for: What of `selectors` to wait for before the next turn.
    """

    def __init__(self, sock: socket.socket, address: tuple[str, int], audience: Audience) -> None:
        """Take over a connected socket that does not block."""
        self.reader = endpoint(*address[:2])
        self.party = party_of(address[0])
        self.deadline = time.monotonic() + HELLO_SECONDS
        self.waits_for = selectors.EVENT_READ
        self.stranger = True
        self._sock = sock
        self._audience = audience
        self._began = not isinstance(audience, Credentials)  # to speak, in clear or not
        self._frame = FrameReader(MAX_HELLO)
        self.held: Resolve | None = None
        self.claims: frozenset[str] = frozenset()
        self._answer: memoryview | None = None
        self._behind = 0

    def fileno(self) -> int:
        """The socket's descriptor, -1 when it is closed."""
        return self._sock.fileno()

    def close(self) -> None:
        """End it. Idempotent."""
        self._sock.close()

    def cut_off(self) -> None:
        """End it, and have the kernel forget what the other side has not taken in, which it would keep for minutes."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _FORGET)
        self._sock.close()

    @property
    def left(self) -> int:
        """Bytes of the answer that the kernel has not taken; -1 until the hello is complete."""
        return -1 if self._answer is None else len(self._answer)

    @property
    def answered(self) -> bool:
        """Whether the kernel has all of the answer."""
        return self.left == 0

    def turn(self, decision: Decision) -> End | None:
        """Go on as far as that needs no waiting, in bounded steps; how it ended, None if it has not.

        Raises:
            WireError: What came is no hello.
        """
        try:
            if self.held is not None:
                return self._go_on_holding(self.held, decision)
            if self._answer is None and not self._take_in(decision):
                return "gone"
            if self._answer:
                self._answer = self._send(self._answer)
            elif self.answered and not self._throw_away():
                return "done"
        except OSError:  # reset by the other side
            return "done" if self.answered or self.held is not None else "gone"
        return None

    def _take_in(self, decision: Decision) -> bool:
        """Take in what is there of the hello, and nothing behind it; False: the other side has ended."""
        try:
            return self._receive(decision)
        except _WAITS:
            pass
        except ssl.SSLError as error:
            decision.no_tls(error, self.reader)
            self._end_tls()
        except (OtherVersionError, TlsError, HttpQueryError) as other:
            self._introduce(self._answer_to_other(other, decision))
        return True

    def _receive(self, decision: Decision) -> bool:
        if not self._began and not self._begin():
            return False
        reads = 0
        while reads < _READS_A_TURN or self._holds_more:
            reads += 1
            data = self._sock.recv(self._frame.missing)
            if not data:
                return False
            self._frame.take(data)
            if not self._frame.missing:
                answer = self._decided(decision)
                if isinstance(answer, Resolve):
                    self._hold(answer)
                else:
                    self._introduce(answer)
                break
        return True

    def _answer_to_other(self, other: OtherVersionError | TlsError | HttpQueryError, decision: Decision) -> bytes:
        """What is answered to who speaks something else that we know."""
        if isinstance(other, OtherVersionError):
            return decision.other_version(other.version, self.reader)
        if isinstance(other, TlsError):
            return decision.speaks_tls(self.reader)
        if answer := decision.query():
            return answer
        raise FrameError("not_ours", "message: it speaks HTTP, and bootstrap is off")

    def _begin(self) -> bool:
        """Speak TLS with who does; who does not is told so. False: the other side has ended."""
        first = self._sock.recv(1, socket.MSG_PEEK)
        if first and TLS_HELLO.startswith(first) and isinstance(self._audience, Credentials):
            tls = self._audience.server
            self._sock = tls.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
        self._began = True
        return bool(first)

    @property
    def _holds_more(self) -> bool:
        """Whether TLS has bytes of the hello that the kernel therefore does not announce; at most a record's."""
        return isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0

    def _end_tls(self) -> None:
        """Nothing is said beyond TLS's alert; what still comes is thrown away, or a reset would overtake it."""
        self._sock = socket.socket(fileno=self._sock.detach())
        self._sock.setblocking(False)
        self._introduce(b"")
        self._sock.shutdown(socket.SHUT_WR)
        self.waits_for = selectors.EVENT_READ

    def _decided(self, decision: Decision) -> bytes | Resolve:
        if isinstance(self._audience, Credentials):
            if not isinstance(self._sock, ssl.SSLSocket):
                return decision.without_key(self.reader)
            known = self._audience.peer_of(self._sock)
            self.stranger = False
            return decision.answer(self._frame.body, self.reader, known)
        if self._audience is not None and (user := self._audience.user_of_peer(self._sock)) != os.geteuid():
            if user is None and self._has_gone():
                raise ConnectionResetError("it belongs to nobody any more")
            return decision.other_user(user, self.reader)
        return decision.answer(self._frame.body, self.reader)

    def _has_gone(self) -> bool:
        """Whether the other side has ended and nothing of it is left to be read."""
        try:
            return not self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False

    def _hold(self, question: Resolve) -> None:
        self.held, self.claims, self.stranger = question, frozenset(question.claims), False
        self._frame.body.clear()
        self.deadline = time.monotonic() + question.hold_ms / 1000
        self.waits_for = selectors.EVENT_READ

    def _go_on_holding(self, question: Resolve, decision: Decision) -> End | None:
        answer = decision.answer_held(question, at_once=time.monotonic() >= self.deadline)
        if answer is not None:
            self.held = None
            self._introduce(answer)
            self._answer = self._send(memoryview(answer))
        elif not self._throw_away():  # it has asked anew, elsewhere
            return "done"
        return None

    def _introduce(self, answer: bytes) -> None:
        # A view: however many readers do not take in their answers, there is one copy of it.
        self._answer = memoryview(answer)
        self._frame.body.clear()
        self.deadline = time.monotonic() + ANSWER_SECONDS
        self.waits_for = selectors.EVENT_WRITE
        if not isinstance(self._audience, Credentials):
            self.stranger = False

    def _send(self, answer: memoryview) -> memoryview:
        """Send what the kernel takes now; what is left."""
        try:
            sent = self._sock.send(answer[:SENT_A_TURN])
        except _WAITS:
            return answer
        if sent == len(answer):
            self._sock.shutdown(socket.SHUT_WR)
            self.waits_for = selectors.EVENT_READ
        return answer[sent:]

    def _throw_away(self) -> bool:
        """Read on until the other side ends, or has said too much: then False."""
        try:
            data = self._sock.recv(MAX_BEHIND)
        except _WAITS:
            return True
        self._behind += len(data)
        return bool(data) and self._behind <= MAX_BEHIND
