# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Where an owner's scheduler process answers readers; client.py is the other end.

One thread serves all connections, each in turns of bounded work. Nothing that arrives can end it: what is not a hello
is counted and dropped, or answered with a refusal.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from kvdirect.errors import WireError
from kvdirect.log import SeldomLog
from kvtransfer.errors import ConfigError

from .connection import Connection
from .crowd import Crowd, in_turns, most_connections
from .decision import Decision
from .frames import FrameError
from .listener import Listener
from .neighbour import Neighbours

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvdirect.keys.tls import Keys

    from .connection import End
    from .decision import Resolver
    from .messages import Welcome

ACCEPTED_A_TURN = 64
# A step of TLS takes up to a millisecond.
ADVANCED_A_TURN = 32
# Seconds between two looks at whose time is up.
LOOK_EVERY = 0.2
_WAKES = 4096
# Seconds without accepting where the process has no descriptor left: whoever waits would wake us for ever.
PAUSE = 0.2
# Of connections that end without an answer. Those that just go (health checks do) are counted only.
_WHY = {
    "late": "its time is up: nobody takes so long over a hello or an answer",
    "made_room": "there are too many, and it was the first to come",
}


class HandshakeServer:
    """Answers readers, from a thread of its own, on one address.

    Attributes:
        port: The port it is bound to.
        dropped: Connections that ended without an answer since the start, by reason.
    """

    def __init__(
        self,
        host: str,
        port: int,
        keys: Keys | None = None,
        *,
        anybody: bool = False,
        for_reader: Callable[[Welcome, str], Welcome] | None = None,
        resolve: Resolver | None = None,
        bootstrap: int | None = None,
    ) -> None:
        """Bind `host` (port 0: any free one) and start to answer; until `offer` readers are told to come back.

        With `keys`, only readers that have one of theirs are heard, and everything is encrypted. Without, those of our
        user on this machine; with `anybody` whoever reaches the port. `for_reader` makes of the offer what the reader
        with a certain key gets, by the key's fingerprint. `resolve` says what claims came to. With `bootstrap`, a
        data-parallel rank, whoever asks is told by HTTP which engine this is (`GET /query`), in clear.

        Raises:
            ConfigError: The port is taken, the host is not one of ours, or nobody can say whose processes readers are.
        """
        self.dropped: Counter[str] = Counter()
        self._taken: Counter[str] = Counter()
        self._decision = Decision(for_reader, resolve, bootstrap)
        self._keys = keys
        self._neighbours = Neighbours() if keys is None and not anybody else None
        try:
            self._listener = Listener(host, port, keys=keys is not None)
        except ConfigError:
            self._close_neighbours()
            raise
        self.port = self._listener.port
        self._crowd = Crowd(most_connections())
        self._logs: defaultdict[End, SeldomLog] = defaultdict(SeldomLog)
        self._stop = threading.Event()
        self._wakeup, self._waker = socket.socketpair()  # news() and close() end the thread's wait
        self._wakeup.setblocking(False)
        self._waker.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._working = threading.Lock()  # on the connections
        self._pause_ends: float | None = None
        self._look_again = 0.0
        self._thread = threading.Thread(target=self._serve, name="kvdirect-handshake", daemon=True)
        self._thread.start()

    @property
    def counters(self) -> dict[str, int]:
        """Welcomed and refused hellos, and connections dropped without an answer, since the start."""
        return {
            "welcomed": self._decision.welcomed,
            "refused": self._decision.refused,
            "dropped": sum(self.dropped.values()),
        }

    def take_counts(self) -> Counter[str]:
        """Welcomed and refused hellos, and dropped connections by reason, since the last call."""
        counts = self.dropped + Counter(welcomed=self._decision.welcomed, refused=self._decision.refused)
        fresh, self._taken = counts - self._taken, counts
        return fresh

    def offer(self, welcome: Welcome) -> None:
        """From now on, answer readers whose fingerprint is the same with this.

        Raises:
            ConfigError: No reader takes in so large an answer.
        """
        self._decision.offer(welcome)

    def news(self, claim: str, early: bool = False) -> None:
        """Questions after this claim may have another answer now; `early`: those of readers that read along.

        Any thread, at any time.

        Whoever says so answers them itself, if nobody is at work here just now: its interpreter may give our thread a
        turn milliseconds later. Only who knows the claim can make it work.
        """
        if self._working.acquire(blocking=False):
            try:
                if not self._stop.is_set():
                    self._answer_held(claim, early)
            except Exception:  # noqa: BLE001  (who has the news has other things to do)
                self._logs["failed"].warning("handshakes", exc_info=True)
            finally:
                self._working.release()
        else:
            with contextlib.suppress(OSError):  # it is told already, or closed
                self._waker.send(b"\0")

    def _answer_held(self, claim: str = "", early: bool = False) -> None:
        """Look at the questions that are held, after one claim or all."""
        for one in list(self._crowd):
            if one.held is not None and (not claim or claim in one.claims) and (one.held.streamed or not early):
                self._advance(one)

    def close(self) -> None:
        """Stop answering and free the port. Idempotent."""
        self._stop.set()
        self._waker.close()
        self._thread.join(timeout=5.0)

    def _serve(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self._turn()
                except Exception:  # noqa: BLE001  (the next reader must get an answer)
                    self._logs["failed"].warning("handshakes", exc_info=True)
                    time.sleep(0.2)
        finally:
            with self._working:
                for connection in self._crowd:
                    connection.cut_off()
                self._selector.close()
            self._listener.close()
            self._wakeup.close()
            self._close_neighbours()

    def _close_neighbours(self) -> None:
        if self._neighbours is not None:
            self._neighbours.close()

    def _turn(self) -> None:
        """Wait for something to do, and give each connection that has something a turn."""
        ready = [
            key.fileobj for key, _ in self._selector.select(LOOK_EVERY if self._crowd or self._pause_ends else None)
        ]
        with self._working:
            self._serve_ready(ready)

    def _serve_ready(self, ready: Sequence[object]) -> None:
        if self._listener in ready:
            self._accept()
        if self._wakeup in ready:
            self._wakeup.recv(_WAKES)
            self._answer_held()
        connections = (one for one in ready if isinstance(one, Connection) and one.fileno() >= 0)  # none that made room
        for connection in in_turns(connections, ADVANCED_A_TURN):
            self._advance(connection)
        now = time.monotonic()
        if now >= self._look_again:
            self._look_again = now + LOOK_EVERY
            for connection in self._crowd.late(now):
                if connection.held is not None:
                    self._advance(connection)
                else:
                    self._end(connection, "late")
        if self._pause_ends is not None and now >= self._pause_ends:
            self._selector.register(self._listener, selectors.EVENT_READ)
            self._pause_ends = None

    def _accept(self) -> None:
        for _ in range(ACCEPTED_A_TURN):
            accepted = self._listener.accept()
            if accepted is not None:
                if (oldest := self._crowd.in_the_way()) is not None:
                    self._end(oldest, "made_room")
                self._take_up(*accepted)
            elif not self._listener.starved:
                return
            elif (stranger := self._crowd.oldest_stranger()) is not None:
                self._end(stranger, "made_room")
            else:
                self._selector.unregister(self._listener)
                self._pause_ends = time.monotonic() + PAUSE
                return

    def _take_up(self, sock: socket.socket, address: tuple[str, int]) -> None:
        connection = Connection(sock, address, self._neighbours if self._keys is None else self._keys.now())
        try:
            self._selector.register(connection, connection.waits_for)
        except OSError as error:  # the kernel has no memory for it
            connection.cut_off()
            self._logs["failed"].warning("cannot serve %s: %s", connection.reader, error)
            return
        self._crowd.add(connection)
        if self._keys is None:
            self._advance(connection)  # a reader's hello comes with it; TLS is too dear for who may have to make room

    def _advance(self, connection: Connection) -> None:
        waited_for, before = connection.waits_for, (connection.left, connection.held)
        try:
            ended = connection.turn(self._decision)
        except FrameError as error:
            self._end(connection, error.fault, str(error))
        except WireError as error:
            self._end(connection, "malformed", str(error))
        except Exception as error:  # noqa: BLE001  (whatever a stranger sent, the others go on)
            self._end(connection, "failed", repr(error))
        else:
            if ended is not None:
                self._end(connection, ended)
                return
            if (connection.left, connection.held) != before and not connection.stranger:
                self._crowd.introduced(connection)
            if connection.waits_for != waited_for:
                self._selector.modify(connection, connection.waits_for)

    def _end(self, connection: Connection, reason: End, why: str = "") -> None:
        if not connection.answered and not (reason == "done" and connection.held):
            self.dropped[reason] += 1
            if why := why or _WHY.get(reason, ""):
                self._logs[reason].warning("dropped the connection of %s: %s", connection.reader, why)
        self._crowd.discard(connection)
        with contextlib.suppress(KeyError):  # a `modify` that failed has done it
            self._selector.unregister(connection)
        if reason in ("done", "gone"):
            connection.close()
        else:
            connection.cut_off()
