# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The messages between engines, made by hand for peers that misbehave (docs/protocol.md)."""

from __future__ import annotations

import hashlib
import hmac
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Self

import kvtransfer as kt

if TYPE_CHECKING:
    from collections.abc import Sequence

RUN = struct.Struct("<IQQ")


class Id(IntEnum):
    HELLO, WELCOME, REFUSE, PROBE, PROOF, PULL, DATA, VERDICT, CANCEL, RENEW, COMPLETE, BYE = range(12)
    CHALLENGE, ANSWER, PROVE, DIGEST, NOTE = range(12, 17)


def frame(message: int, body: bytes = b"") -> bytes:
    return struct.pack("<IBxxx", len(body), message) + body


def labelled(key: bytes, label: bytes, *parts: bytes) -> bytes:
    """What proves that its sender has the key."""
    text = struct.pack("<H", len(label)) + label + b"".join(struct.pack("<I", len(part)) + part for part in parts)
    return hmac.digest(key, text, hashlib.sha256)


def answer(key: bytes, hello: bytes, challenge: bytes) -> bytes:
    """The answer to a challenge; `hello` is the frame that was challenged."""
    return frame(Id.ANSWER, labelled(key, b"kvdirect reader", hello[8:], challenge))


@dataclass(frozen=True, slots=True)
class Address:
    """What a descriptor says of where and how to connect."""

    incarnation: int
    identity: bytes
    not_after: int
    key: bytes
    host: str
    port: int

    @classmethod
    def of(cls, descriptor: bytes) -> Self:
        (incarnation, name_length) = struct.unpack_from("<QH", descriptor, 12)
        at = 22 + name_length
        (length,) = struct.unpack_from("<I", descriptor, at)
        identity = descriptor[at + 4 : at + 4 + length]
        at += 4 + length
        (not_after, length) = struct.unpack_from("<QI", descriptor, at)
        key = descriptor[at + 12 : at + 12 + length]
        at += 12 + length
        (host_length,) = struct.unpack_from("<H", descriptor, at)
        host = descriptor[at + 2 : at + 2 + host_length].decode()
        (port,) = struct.unpack_from("<H", descriptor, at + 2 + host_length)
        return cls(incarnation, identity, not_after, key, host, port)

    @staticmethod
    def moved(descriptor: bytes, port: int) -> bytes:
        """The descriptor of an engine that is reached by another port of its host."""
        here = Address.of(descriptor)
        old = struct.pack("<H", len(here.host)) + here.host.encode() + struct.pack("<H", here.port)
        assert descriptor.count(old) == 1
        return sealed(descriptor.replace(old, old[:-2] + struct.pack("<H", port)))

    def dial(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=10)

    def hello(
        self,
        *,
        version: int = kt.PROTOCOL_VERSION,
        incarnation: int | None = None,
        reader: int = 1,
        stream: int = 0,
        session: bytes = bytes(16),
    ) -> bytes:
        whom = self.incarnation if incarnation is None else incarnation
        body = struct.pack("<IQQH", version, whom, reader, 3) + b"raw"
        body += struct.pack("<I", len(self.identity)) + self.identity + bytes([stream]) + session
        return frame(Id.HELLO, body + struct.pack("<Q", self.not_after) + bytes(32))

    def ask(
        self,
        sock: socket.socket,
        *,
        more: bytes = b"",
        incarnation: int | None = None,
        reader: int = 1,
        stream: int = 0,
        session: bytes = bytes(16),
    ) -> tuple[Id, bytes]:
        """Say hello, answer the challenge, and return what is said to that; `more` follows the answer at once."""
        hello = self.hello(incarnation=incarnation, reader=reader, stream=stream, session=session)
        sock.sendall(hello)
        message, challenge = receive(sock)
        assert message == Id.CHALLENGE
        sock.sendall(answer(self.key, hello, challenge) + more)
        return receive(sock)


def sealed(descriptor: bytes) -> bytes:
    """The descriptor with its checksum put right, as a forger would."""
    checksum = 0xCBF29CE484222325
    for byte in descriptor[:-8]:
        checksum = (checksum ^ byte) * 0x100000001B3 % (1 << 64)
    return descriptor[:-8] + struct.pack("<Q", checksum)


def pull(
    number: int,
    lease: kt.LeaseRef,
    runs: Sequence[tuple[int, int, int]],
    *,
    total: int | None = None,
    message: Id = Id.PULL,
) -> bytes:
    count = len(runs) if total is None else total
    head = struct.pack("<QIQQIIII", number, lease.slot, lease.epoch, 0, 5000, count, 0, len(runs))
    return frame(message, head + b"".join(RUN.pack(*run) for run in runs))


def complete(lease: kt.LeaseRef) -> bytes:
    return frame(Id.COMPLETE, struct.pack("<IQI", lease.slot, lease.epoch, 1))


def renew(lease: kt.LeaseRef) -> bytes:
    return frame(Id.RENEW, struct.pack("<IQd", lease.slot, lease.epoch, 60.0))


def receive(sock: socket.socket) -> tuple[Id, bytes]:
    """The next message. Raises EOFError where the other side has closed."""
    length, message = struct.unpack("<IBxxx", _exactly(sock, 8))
    return Id(message), _exactly(sock, length)


def _exactly(sock: socket.socket, length: int) -> bytes:
    parts = b""
    while len(parts) < length:
        try:
            part = sock.recv(length - len(parts))
        except ConnectionError:
            part = b""
        if not part:
            raise EOFError
        parts += part
    return parts


def has_ended(sock: socket.socket, *, within: float = 10.0) -> bool:
    """The other side closes, whatever it may still say before."""
    sock.settimeout(within)
    try:
        while sock.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True
