# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A reader's end of the handshake: dial an owner, introduce ourselves, compare what it says with what we are."""

from __future__ import annotations

import contextlib
import math
import os
import ssl
import time
from typing import TYPE_CHECKING, NamedTuple

from kvdirect.errors import WireError
from kvdirect.fingerprint import PROTOCOL_VERSION, first_difference
from kvdirect.hosts import endpoint, resolve
from kvtransfer.errors import ConnectError, MismatchError

from .exchange import exchange
from .frames import FrameReader, OtherVersionError, framed
from .messages import (
    KEYS,
    MAX_ANSWER,
    MAX_HELLO,
    MAX_HOLD_MS,
    MAX_REFUSAL,
    NOT_READY,
    USER,
    Hello,
    Refusal,
    Resolve,
    Tickets,
    Welcome,
    pack,
    unpack,
)
from .neighbour import Neighbours

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvdirect.keys.tls import Credentials, Keys

    from .exchange import Breakable

# Seconds between two tries. Refused for so long, nobody will listen there: an owner listens before anybody can have its
# ticket, so only one that is gone refuses.
_AGAIN = 0.1
_REFUSED_FOR = 2.0
# A name that is not looked up by then has no server that answers; other owners wait for this thread.
LOOKUP_SECONDS = 5.0


class _Where(NamedTuple):
    """Whom to dial, what shows who is there, and who may break it off."""

    address: str
    port: int
    credentials: Credentials | None
    neighbours: Neighbours | None
    breakable: Breakable | None


def ask(
    host: str, port: int, hello: Hello, *, timeout: float, keys: Keys | None = None, anybody: bool = False
) -> Welcome:
    """Introduce ourselves to an owner and return its answer; blocks, so call it from a thread that may.

    Args:
        host: The owner's name or address; whether it may be dialled is the caller's to check. A name is looked up
            with each call.
        port: Its handshake port.
        hello: Who we are.
        timeout: Seconds for everything, the lookup of the name included.
        keys: Ours, and those of owners that we take an answer from; None: everything is in clear, and the owner must be
            our user's process on this machine.
        anybody: Without keys, take an answer from whoever is there.

    Raises:
        ConnectError: The name does not resolve, nobody listens there, or nobody answered in time with sense.
        MismatchError: The owner's cache is not like ours; names the field and both values.
    """
    peer = endpoint(host, port)
    answer = _ask(host, port, _checked(hello, peer), peer, timeout, keys, anybody=anybody)
    if not isinstance(answer, Welcome):
        raise ConnectError("the answer is of no hello", operation="handshake", peer=peer)
    difference = first_difference(answer.fingerprint, hello.fingerprint)
    if difference is not None:
        raise mismatch(peer, *difference)
    return answer


def resolve_claims(
    host: str,
    port: int,
    claims: Sequence[str],
    *,
    timeout: float,
    keys: Keys | None = None,
    anybody: bool = False,
    streamed: bool = False,
    unlike: bytes = b"",
    hold: float = 1.0,
    breakable: Breakable | None = None,
) -> tuple[bytes | int, ...]:
    """Ask an owner which tickets came of these claims; blocks as `ask` does, with the same arguments.

    `streamed`: tickets of prefills that run still are wanted, too. `unlike`: the `digest` of what is known of these
    claims; the owner answers once it would say something else, and after `hold` seconds (10 at most), or half of
    `timeout`, in any case.

    Returns:
        For each claim a ticket as JSON, or UNKNOWN, RUNNING or NONE.

    Raises:
        ConnectError: As `ask`, or the answer is not of these claims.
        MismatchError: The owner has no key that we know, is another user's, or speaks another version.
        BrokenOffError: `breakable` was broken off.
    """
    peer = endpoint(host, port)
    hold_ms = min(MAX_HOLD_MS, int(min(hold, timeout / 2) * 1000)) if unlike else 0
    question = pack(Resolve(tuple(claims), streamed, unlike, hold_ms))
    answer = _ask(host, port, question, peer, timeout, keys, anybody=anybody, breakable=breakable)
    if not isinstance(answer, Tickets) or len(answer.answers) != len(claims):
        raise ConnectError("the answer is not of our claims", operation="resolve claims", peer=peer)
    return answer.answers


def _ask(
    host: str,
    port: int,
    body: bytes,
    peer: str,
    timeout: float,
    keys: Keys | None,
    *,
    anybody: bool,
    breakable: Breakable | None = None,
) -> Welcome | Tickets:
    deadline = time.monotonic() + timeout
    question, address = framed(body), _address_of(host, peer, timeout)
    with contextlib.ExitStack() as stack:
        neighbours = stack.enter_context(Neighbours()) if keys is None and not anybody else None
        where = _Where(address, port, None if keys is None else keys.now(), neighbours, breakable)
        answer = _answer(peer, where, question, deadline)
    if isinstance(answer, Refusal):
        raise mismatch(peer, answer.field, answer.owner_value, answer.reader_value)
    return answer


def mismatch(peer: str, name: str, owner_value: str, reader_value: str) -> MismatchError:
    """The error for a field in which owner and reader differ."""
    if name in (KEYS, USER):
        hint = "Set key_file and peers_file on both engines"
    else:
        same = "version of kvdirect" if name == "protocol_version" else "model and cache settings"
        hint = f"Start both engines with the same {same}"
    return MismatchError(
        f"{name} differs: {owner_value} at the owner, {reader_value} at the reader",
        operation="handshake",
        peer=peer,
        hint=hint,
    )


def _checked(hello: Hello, peer: str) -> bytes:
    body = pack(hello)
    if len(body) > MAX_HELLO:
        raise ConnectError(
            f"our hello takes {len(body)} bytes, and owners take in {MAX_HELLO}",
            operation="handshake",
            peer=peer,
            hint="Set model_id to a shorter name on all engines",
        )
    try:
        unpack(body)
    except WireError as error:
        raise ConnectError(
            "owners take in no such hello", operation="handshake", peer=peer, status=str(error)
        ) from None
    return body


def _address_of(host: str, peer: str, timeout: float) -> str:
    try:
        return resolve(host, min(timeout, LOOKUP_SECONDS))
    except OSError as error:
        raise ConnectError(
            f"the owner's name {host!r} does not resolve",
            operation="handshake",
            peer=peer,
            status=str(error),
            hint="Set the owner's host to an address, or to a name that its readers resolve",
        ) from None


def _answer(peer: str, where: _Where, question: bytes, deadline: float) -> Welcome | Tickets | Refusal:
    """What the owner says, asked until it says something else than that it is not ready."""
    refused_since: float = math.inf
    problem: OSError = _NotTriedError()
    while True:
        try:
            answer = _answer_once(peer, where, question, deadline)
            if not (isinstance(answer, Refusal) and answer.field == NOT_READY):
                return answer
            refused_since, problem = math.inf, _NotReadyError()
        except ConnectionRefusedError as error:
            problem, now = error, time.monotonic()
            refused_since = min(refused_since, now)
            if now - refused_since >= _REFUSED_FOR:
                raise ConnectError(
                    f"nobody listens there: connections were refused for {_REFUSED_FOR:g} s",
                    operation="handshake",
                    peer=peer,
                    hint="The owner is down, or was started again with another kv_port",
                ) from None
        except OSError as error:
            if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
                raise _no_key(peer, error) from None
            # What an earlier try met says more than that the last one of all had too little time left.
            known = isinstance(error, TimeoutError) and not isinstance(problem, _NotTriedError | ConnectionRefusedError)
            refused_since, problem = math.inf, problem if known else error
        if time.monotonic() + _AGAIN >= deadline:
            raise _given_up(peer, problem)
        time.sleep(_AGAIN)


def _no_key(peer: str, error: ssl.SSLError) -> ConnectError:
    ours = isinstance(error, ssl.SSLCertVerificationError)
    what = "its key is not in our peers_file" if ours else "it has no keys, or ours is not in its peers_file"
    return ConnectError(
        what,
        operation="handshake",
        peer=peer,
        status=str(error.reason or error),
        hint="Add each engine's .pub file (kvdirect keygen) to the peers_file of the other",
    )


class _NotTriedError(OSError):
    """No try has ended yet."""


class _NotReadyError(OSError):
    """The owner is there and its caches are not registered yet."""


def _given_up(peer: str, problem: OSError) -> ConnectError:
    if isinstance(problem, _NotReadyError):
        return ConnectError("not ready in time: its engine is still starting", operation="handshake", peer=peer)
    what = "no answer in time" if isinstance(problem, TimeoutError | ConnectionError) else "cannot be dialled"
    return ConnectError(
        what,
        operation="handshake",
        peer=peer,
        status=str(problem),
        hint="Is the owner up, and is this its kv_port?",
    )


def _answer_once(peer: str, where: _Where, question: bytes, deadline: float) -> Welcome | Tickets | Refusal:
    frame = FrameReader(MAX_ANSWER, MAX_REFUSAL)
    try:
        identity = where.credentials, where.neighbours
        user = exchange(where.address, where.port, question, frame, deadline, *identity, where.breakable)
        answer = unpack(frame.body)
    except OtherVersionError as error:
        raise _other_version(peer, error.version) from None
    except WireError as error:
        if frame.version not in (0, PROTOCOL_VERSION):
            raise _other_version(peer, str(frame.version)) from None
        raise ConnectError("the answer makes no sense", operation="handshake", peer=peer, status=str(error)) from None
    if frame.version != PROTOCOL_VERSION and not isinstance(answer, Refusal):
        raise _other_version(peer, str(frame.version))
    if not isinstance(answer, Refusal) and where.neighbours is not None and user != os.geteuid():
        raise mismatch(peer, USER, "unknown" if user is None else str(user), str(os.geteuid()))
    if isinstance(answer, Hello | Resolve):
        raise ConnectError("the answer is a question: this is no owner", operation="handshake", peer=peer)
    return answer


def _other_version(peer: str, version: str) -> MismatchError:
    return mismatch(peer, "protocol_version", version, str(PROTOCOL_VERSION))
