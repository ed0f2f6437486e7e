# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A reader's end of the handshake: dial an owner, introduce ourselves, compare what it says with what we are."""

from __future__ import annotations

import math
import socket
import time

import zmq

from kvdirect.errors import WireError
from kvdirect.fingerprint import PROTOCOL_VERSION, first_difference
from kvdirect.hosts import endpoint, resolve
from kvtransfer.errors import ConnectError, MismatchError

from .messages import MAX_ANSWER, NOT_READY, Hello, Refusal, Welcome, pack, unpack, version_of

# Seconds: without an answer for so long we look, and look again, whether anybody listens there at all; refused for so
# long, nobody will. An owner listens before anybody can have its ticket, so only one that is gone refuses.
_PATIENCE = 0.5
_LOOK_EVERY = 0.5
_REFUSED_FOR = 2.0


def ask(host: str, port: int, hello: Hello, *, timeout: float) -> Welcome:
    """Introduce ourselves to an owner and return its answer; blocks, so call it from a thread that may.

    Args:
        host: The owner's name or address; whether it may be dialled is the caller's to check. A name is looked up
            with each call.
        port: Its handshake port.
        hello: Who we are.
        timeout: Seconds for everything.

    Raises:
        ConnectError: The name does not resolve, nobody listens there, or nobody answered in time with sense.
        MismatchError: The owner's cache is not like ours; names the field and both values.
    """
    peer = endpoint(host, port)
    deadline = time.monotonic() + timeout
    address = _address_of(host, peer)
    context = zmq.Context()
    try:
        while True:
            answer = _ask_once(context, peer, (address, port), hello, deadline)
            if not (isinstance(answer, Refusal) and answer.field == NOT_READY):
                break
            if time.monotonic() + 0.2 >= deadline:
                raise ConnectError(f"not ready after {timeout:g} s", operation="handshake", peer=peer)
            time.sleep(0.2)
    finally:
        context.destroy(linger=0)
    if isinstance(answer, Refusal):
        raise mismatch(peer, answer.field, answer.owner_value, answer.reader_value)
    difference = first_difference(answer.fingerprint, hello.fingerprint)
    if difference is not None:
        raise mismatch(peer, *difference)
    return answer


def mismatch(peer: str, name: str, owner_value: str, reader_value: str) -> MismatchError:
    """The error for a field in which owner and reader differ."""
    return MismatchError(
        f"{name} differs: {owner_value} at the owner, {reader_value} at the reader",
        operation="handshake",
        peer=peer,
        hint="Start both engines with the same model and cache settings",
    )


def _address_of(host: str, peer: str) -> str:
    try:
        return resolve(host)
    except OSError as error:
        raise ConnectError(
            f"the owner's name {host!r} does not resolve",
            operation="handshake",
            peer=peer,
            status=str(error),
            hint="Set the owner's host to an address, or to a name that its readers resolve",
        ) from None


def _ask_once(
    context: zmq.Context[zmq.Socket[bytes]], peer: str, where: tuple[str, int], hello: Hello, deadline: float
) -> Welcome | Refusal:
    sock = context.socket(zmq.DEALER)
    try:
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt(zmq.MAXMSGSIZE, MAX_ANSWER)
        sock.setsockopt(zmq.IPV6, 1)
        sock.connect(f"tcp://{endpoint(*where)}")
        sock.send(pack(hello))
        _await_answer(sock, peer, where, deadline)
        data = sock.recv()
    except zmq.ZMQError as error:
        raise ConnectError("cannot be dialled", operation="handshake", peer=peer, status=str(error)) from None
    finally:
        sock.close(linger=0)
    return _accept(peer, data)


def _await_answer(sock: zmq.Socket[bytes], peer: str, where: tuple[str, int], deadline: float) -> None:
    """Return when the answer is there; ZeroMQ itself would dial a port without listener for ever."""
    refused_since, patience = math.inf, _PATIENCE
    while True:
        left = deadline - time.monotonic()
        if sock.poll(max(0, math.ceil(min(left, patience) * 1000)), zmq.POLLIN):
            return
        if time.monotonic() >= deadline:
            raise ConnectError(
                "no answer in time", operation="handshake", peer=peer, hint="Is the owner up, and is this its kv_port?"
            )
        patience = _LOOK_EVERY
        now = time.monotonic()
        refused_since = min(refused_since, now) if _refused(where) else math.inf
        if now - refused_since >= _REFUSED_FOR:
            raise ConnectError(
                f"nobody listens there: connections were refused for {_REFUSED_FOR:g} s",
                operation="handshake",
                peer=peer,
                hint="The owner is down, or was started again with another kv_port",
            )


def _refused(where: tuple[str, int]) -> bool:
    """Whether the owner's machine says that nobody listens; one that says nothing may only be busy."""
    try:
        with socket.create_connection(where, timeout=_LOOK_EVERY):
            return False
    except ConnectionRefusedError:
        return True
    except OSError:
        return False


def _accept(peer: str, data: bytes) -> Welcome | Refusal:
    try:
        version = version_of(data, MAX_ANSWER)
        answer = _decoded(data)
        if version != PROTOCOL_VERSION and not isinstance(answer, Refusal):
            raise mismatch(peer, "protocol_version", str(version), str(PROTOCOL_VERSION))
        if isinstance(answer, WireError):
            raise answer
    except WireError as error:
        raise ConnectError("the answer makes no sense", operation="handshake", peer=peer, status=str(error)) from None
    if isinstance(answer, Hello):
        raise ConnectError("the answer is a hello: this is no owner", operation="handshake", peer=peer)
    return answer


def _decoded(data: bytes) -> Hello | Welcome | Refusal | WireError:
    """The message, or why there is none: another version's may be one that only that version can read."""
    try:
        return unpack(data)
    except WireError as error:
        return error
