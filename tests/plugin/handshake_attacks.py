# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What somebody without a key can do to a handshake port: each attack goes on until its process is ended.

    python handshake_attacks.py PORT ATTACK [KEY]

Prints a line when it is under way.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import socket
import ssl
import struct
import sys
import threading
import time
from typing import TYPE_CHECKING

import msgspec
from handshake_owner import FINGERPRINT, HELLO

from kvdirect.fingerprint import PROTOCOL_VERSION
from kvdirect.handshake.frames import HEADER, MAGIC, ZEROMQ_SIGNATURE, framed
from kvdirect.handshake.messages import MAX_HELLO, Hello, Refusal, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUESTION = framed(pack(HELLO))
OTHER = framed(pack(Hello("reader", (*FINGERPRINT[:1], ("model", "other")))))
RESET = struct.pack("ii", 1, 0)
MANY = 1500


def connected() -> socket.socket:
    """A fresh connection, as soon as there is one."""
    while True:
        try:
            return socket.create_connection(("127.0.0.1", PORT), timeout=10, source_address=(SOURCE, 0))
        except OSError:
            time.sleep(0.001)


def flood(first: bytes, then: bytes, *, read: bool = False) -> None:
    """Send without end, on a fresh connection whenever one is cut off."""
    for turn in itertools.count():
        try:
            with connected() as sock:
                sock.settimeout(0.5)
                sock.sendall(first)
                if turn == 3:
                    under_way()
                while then:
                    sock.sendall(then)
                if read:
                    sock.recv(65536)
        except OSError:
            continue


def crowd(first: bytes, *, drip: bytes = b"", half_closed: bool = False) -> None:
    """Keep many connections that say this and nothing more, or a byte now and then; those that end are replaced."""

    def fresh() -> socket.socket:
        sock = connected()
        try:
            sock.sendall(first)
            if half_closed:
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        sock.setblocking(False)
        return sock

    held = [fresh() for _ in range(MANY)]
    under_way()
    for number in itertools.cycle(range(MANY)):
        sock = held[number]
        try:
            if drip:
                sock.send(drip)
            reset = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
            ended = reset or sock.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            ended = False
        except OSError:
            ended = True
        if ended and not half_closed:
            sock.close()
            held[number] = fresh()
        if number % 10 == 0:
            time.sleep(0.001)


def resets() -> None:
    """Connect, say something or nothing, and reset."""
    for turn, first in enumerate(itertools.cycle((QUESTION, QUESTION[:7], b"", OTHER))):
        sock = connected()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        with contextlib.suppress(OSError):
            sock.sendall(first)
        sock.close()
        if turn == 100:
            under_way()


def garbage() -> Iterator[bytes]:
    """Messages that are none, or of the wrong kind."""
    yield b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 50
    yield os.urandom(4096)
    yield framed(pack(Refusal("a", "b", "c")))
    yield framed(b"\x81\xa1x" + b"\x91" * (MAX_HELLO - 10) + b"\xc0")
    yield framed(msgspec.msgpack.encode({"type": "hello", "engine_id": "x", "fingerprint": [["a", "b"]] * 1500}))
    yield framed(b"\xdd\xff\xff\xff\xff" * 100)
    yield framed(b"\xc6\xff\xff\xff\xff" + bytes(100))
    yield framed(os.urandom(MAX_HELLO))
    yield ZEROMQ_SIGNATURE + bytes(1000)
    yield HEADER.pack(MAGIC, 9, 1 << 31) + bytes(1000)


def say(message: bytes) -> None:
    """Send it over a connection of its own, and wait for whatever comes, or for the end."""
    with connected() as sock, contextlib.suppress(OSError):  # an owner may cut us off at any time
        sock.sendall(message)
        sock.recv(65536)


def nonsense() -> None:
    """All of it, over and over."""
    for turn, message in enumerate(itertools.cycle(list(garbage()))):
        say(message)
        if turn == 100:
            under_way()


def refused(count: int = 20_000) -> None:
    """Many hellos of another model, from several threads; a line when they are through."""

    def some() -> None:
        for _ in range(count // 4):
            say(OTHER)

    under_way()
    threads = [threading.Thread(target=some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    under_way()


def tls_hello() -> bytes:
    """What a TLS client says first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname = False
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


def strangers_key() -> None:
    """Go through the whole of TLS, with a key that is in no list, or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for turn in itertools.count():
        if turn == 20:
            context.load_cert_chain(sys.argv[3])
            under_way()
        with connected() as sock, contextlib.suppress(OSError), context.wrap_socket(sock) as tls:
            tls.sendall(QUESTION)
            tls.recv(65536)


RECORD = b"\x16\x03\x03\x40\x00" + bytes(0x4000)
# On an owner that has keys.
ATTACKS_ON_KEYS: dict[str, Callable[[], None]] = {
    "in clear": lambda: crowd(QUESTION),
    "one byte of TLS": lambda: crowd(b"\x16"),
    "half of TLS's hello": lambda: crowd(tls_hello()[:100]),
    "TLS's hello and nothing more": lambda: crowd(tls_hello()),
    "records without end": lambda: flood(b"", RECORD * 64),
    "records without end behind TLS's hello": lambda: flood(tls_hello(), RECORD * 64),
    "a hello of TLS without end": lambda: flood(b"\x16\x03\x01\x40\x00\x01\xff\xff\xff", bytes(1 << 20)),
    "a stranger's key": strangers_key,
}
ATTACKS: dict[str, Callable[[], None]] = {
    "a frame without end": lambda: flood(HEADER.pack(MAGIC, PROTOCOL_VERSION, 0xFFFFFFFF), bytes(1 << 20)),
    "a hello without end": lambda: flood(HEADER.pack(MAGIC, PROTOCOL_VERSION, MAX_HELLO), bytes(1 << 20)),
    "bytes without end behind a hello": lambda: flood(QUESTION, bytes(1 << 20)),
    "empty frames": lambda: flood(framed(b""), framed(b"") * 10_000),
    "another version's frame without end": lambda: flood(HEADER.pack(MAGIC, 4, 0xFFFFFFFF), bytes(1 << 20)),
    "idle": lambda: crowd(b""),
    "almost a header": lambda: crowd(QUESTION[: HEADER.size - 1]),
    "almost a hello": lambda: crowd(framed(bytes(MAX_HELLO))[:-1]),
    "dripping": lambda: crowd(HEADER.pack(MAGIC, PROTOCOL_VERSION, MAX_HELLO), drip=b"\0"),
    "answers that nobody reads": lambda: crowd(QUESTION),
    "half-closed": lambda: crowd(QUESTION[:20], half_closed=True),
    "resets": resets,
    "nonsense": nonsense,
    "refused hellos": refused,
}


def under_way() -> None:
    """Tell whoever started this."""
    sys.stdout.write("under way\n")
    sys.stdout.flush()


if __name__ == "__main__":
    PORT = int(sys.argv[1])
    # Where TLS is dear, those of one address have to share what it gets.
    SOURCE = "127.0.0.9" if sys.argv[2] in ATTACKS_ON_KEYS else "127.0.0.1"
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    (ATTACKS | ATTACKS_ON_KEYS)[sys.argv[2]]()
