# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What an owner answers a hello: its welcome, or why not, field by field with both values."""

from __future__ import annotations

import json
import os
import ssl
from typing import TYPE_CHECKING

from kvdirect.errors import WireError
from kvdirect.fingerprint import PROTOCOL_VERSION, first_difference
from kvdirect.log import SeldomLog
from kvtransfer.errors import ConfigError

from .frames import TLS_REFUSAL, ZEROMQ_VERSIONS, framed
from .messages import KEYS, MAX_ANSWER, NOT_READY, USER, Hello, Refusal, Resolve, Tickets, Welcome, digest, pack, unpack
from .zeromq_refusal import zeromq_refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Resolver = Callable[[Sequence[str], bool], tuple[bytes | int, ...]]


class Decision:
    """Compares hellos with what this owner offers.

    Attributes:
        welcomed: Hellos that were answered with the offer.
        resolved: Questions after claims that were answered.
        refused: Hellos, also of other protocol versions, that were answered with a difference.
    """

    def __init__(
        self,
        for_reader: Callable[[Welcome, str], Welcome] | None = None,
        resolve: Resolver | None = None,
        bootstrap: int | None = None,
    ) -> None:
        """Offer nothing yet: readers are told to come back. `for_reader` makes the offer that of a reader's key.

        `resolve` says what claims came to, also of prefills that run still if so asked; any thread may call it.
        `bootstrap`: answer `GET /query`, as the engine of this data-parallel rank.
        """
        self._bootstrap = bootstrap
        self._for_reader = for_reader
        self._resolve = resolve
        self.resolved = 0
        self.welcomed = 0
        self.refused = 0
        self._offer: tuple[Welcome, bytes] | None = None
        self._log = SeldomLog()

    def offer(self, welcome: Welcome) -> None:
        """From now on, answer readers whose fingerprint is the same with this.

        Raises:
            ConfigError: No reader takes in so large an answer.
        """
        body = pack(welcome)
        if len(body) > MAX_ANSWER:
            raise ConfigError(
                f"the answer for {len(welcome.descriptors)} workers takes {len(body)} bytes; readers read {MAX_ANSWER}",
                operation="answer handshakes",
                hint="Make the engine of fewer workers, or of fewer layers each",
            )
        self._offer = welcome, framed(body)

    def answer(self, body: bytes | bytearray, reader: str, key: str = "") -> bytes | Resolve:
        """The answer to a hello, which all readers who get the same one share; or to a question after claims.

        Args:
            body: The hello, or the question.
            reader: An address, for the log.
            key: The fingerprint of the key that the reader has shown, if any.

        Returns:
            A question that is not to be answered yet, as it is: `answer_held` says when.

        Raises:
            WireError: This is neither.
        """
        hello = unpack(body)
        if isinstance(hello, Resolve) and self._resolve is not None:
            self.resolved += 1
            return self.answer_held(hello, at_once=hello.hold_ms == 0) or hello
        if not isinstance(hello, Hello):
            raise WireError(f"message: a {type(hello).__name__.lower()} where a hello was expected")
        if self._offer is None:
            return framed(pack(Refusal(NOT_READY, "starting", "connecting")))
        welcome, answer = self._offer
        difference = first_difference(welcome.fingerprint, hello.fingerprint)
        if difference is not None:
            return framed(self._refusal(reader, *difference))
        self.welcomed += 1
        return framed(pack(self._for_reader(welcome, key))) if key and self._for_reader is not None else answer

    def answer_held(self, question: Resolve, *, at_once: bool = False) -> bytes | None:
        """The answer to a question after claims, once it is another one than the asker knows, or `at_once`."""
        answers = () if self._resolve is None else self._resolve(question.claims, question.streamed)
        if not at_once and digest(answers) == question.unlike:
            return None
        return framed(pack(Tickets(answers)))

    def query(self) -> bytes:
        """The answer to `GET /query`, in HTTP and the form of Mooncake's bootstrap server; nothing if that is off."""
        if self._bootstrap is None:
            return b""
        if self._offer is None:
            return b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        engine = {"engine_id": self._offer[0].engine_id, "worker_addr": {}}
        body = json.dumps({str(self._bootstrap): engine}).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return head.encode() + b"Connection: close\r\n\r\n" + body

    def other_version(self, version: str, reader: str) -> bytes:
        """What a reader of another protocol version gets."""
        refusal = self._refusal(reader, "protocol_version", str(PROTOCOL_VERSION), version)
        return zeromq_refusal() if version == ZEROMQ_VERSIONS else framed(refusal)

    def without_key(self, reader: str) -> bytes:
        """What a reader without any key gets where one is needed."""
        return framed(self._refusal(reader, KEYS, "needed", "none"))

    def no_tls(self, error: ssl.SSLError, reader: str) -> None:
        """A reader's key is not in the list, or it did not take ours; TLS has told it."""
        unknown = isinstance(error, ssl.SSLCertVerificationError)
        self._refusal(reader, KEYS, "needed", "not in peers_file" if unknown else str(error.reason or error))

    def other_user(self, user: int | None, reader: str) -> bytes:
        """What a process of another user gets where there are no keys."""
        return framed(self._refusal(reader, USER, str(os.geteuid()), "unknown" if user is None else str(user)))

    def speaks_tls(self, reader: str) -> bytes:
        """What a reader with keys gets where there are none."""
        self._refusal(reader, KEYS, "none", "there")
        return TLS_REFUSAL

    def _refusal(self, reader: str, name: str, ours: str, theirs: str) -> bytes:
        self.refused += 1
        values = (_one_line(value) for value in (name, ours, theirs))
        self._log.warning("refused a reader: %s is %s here and %s there, at %s", *values, reader)
        return pack(Refusal(name, ours[:1024], theirs[:1024]))


def _one_line(value: str) -> str:
    """A value that may be a stranger's, for the log."""
    return repr(value[:200])[1:-1]
