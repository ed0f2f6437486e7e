# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The handshake port: frames, the messages in them, and what an owner decides."""

from __future__ import annotations

import logging

from kvdirect.errors import WireError
from kvdirect.handshake.decision import Decision
from kvdirect.handshake.frames import FrameError, FrameReader, HttpQueryError, OtherVersionError, TlsError
from kvdirect.handshake.messages import MAX_HELLO, MAX_HOLD_MS, MAX_REFUSAL, Resolve, Welcome, pack, unpack
from kvdirect.scheduler.claims import Claims

from .pieces import Input

_LIMIT = 1 << 10
_PAIRS = (("model", "m"), ("g0.block_size", "128"))
logging.getLogger("kvdirect").setLevel(logging.CRITICAL)


def _read(data: bytes, sizes: bytes) -> tuple[object, ...]:
    """What a reader says of these bytes when no more than so many arrive at a time."""
    frame = FrameReader(_LIMIT, MAX_REFUSAL)
    at = turn = 0
    try:
        while frame.missing and at < len(data):
            size = frame.missing if not sizes else min(frame.missing, 1 + sizes[turn % len(sizes)])
            frame.take(data[at : at + size])
            at += min(size, len(data) - at)
            turn += 1
            assert len(frame.body) <= _LIMIT
    except FrameError as error:
        return (error.fault,)
    except OtherVersionError as error:
        return (error.version,)
    except TlsError:
        return ("tls",)
    except HttpQueryError:
        return ("http",)
    return (frame.version, frame.missing, bytes(frame.body))


def frames(data: bytes) -> None:
    """However bytes are cut, the same frame or the same refusal comes of them."""
    parts = Input(data)
    sizes = parts.take(parts.below(8))
    body = parts.rest()
    assert _read(body, sizes) == _read(body, b"")


def hellos(data: bytes) -> None:
    """What decodes means the same once it is encoded; an owner answers any question with a frame, and nothing else."""
    try:
        message = unpack(data)
    except WireError:
        return
    assert unpack(pack(message)) == message
    claims = Claims()
    claims.came_to("a" * 32, {"remote_host": "127.0.0.1"})
    decision = Decision(resolve=claims.answers)
    decision.offer(Welcome("owner", 1, _PAIRS, (16,), (1,), (b"descriptor",)))
    try:
        answer = decision.answer(data, "127.0.0.1")
    except WireError:
        return
    if isinstance(answer, Resolve):
        assert 0 < answer.hold_ms <= MAX_HOLD_MS
        held = decision.answer_held(answer, at_once=True)
        assert held is not None
        answer = held
    frame = FrameReader(MAX_HELLO)
    while frame.missing:
        size = frame.missing
        frame.take(answer[:size])
        answer = answer[size:]
    assert not answer
    unpack(frame.body)
