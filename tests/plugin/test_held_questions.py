# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Questions after claims that an owner holds until it has news, by TLS and in clear; test_awaited.py has the asker."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

from kvdirect.handshake.client import resolve_claims
from kvdirect.handshake.exchange import Breakable, BrokenOffError
from kvdirect.handshake.messages import NONE, RUNNING, digest
from kvdirect.handshake.server import HandshakeServer
from kvtransfer.errors import ConnectError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvdirect.keys.tls import Keys


def soon(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("encrypted", [False, True])
def test_one_is_answered_with_the_news_or_broken_off(keys: Callable[..., Keys], encrypted: bool) -> None:
    said: list[bytes | int] = [RUNNING]
    ours, theirs = (keys("owner", "reader"), keys("reader", "owner")) if encrypted else (None, None)
    owner = HandshakeServer("127.0.0.1", 0, ours, resolve=lambda *_: tuple(said))
    question = Breakable()
    ask = partial(resolve_claims, "127.0.0.1", owner.port, ["a" * 32], timeout=10, keys=theirs)
    hold = partial(ask, timeout=20, unlike=digest([RUNNING]), hold=10.0, breakable=question)
    try:
        with ThreadPoolExecutor(1) as asking:
            began, answer = time.monotonic(), asking.submit(hold)
            soon(lambda: any(one.held for one in owner._crowd))
            assert ask() == (RUNNING,)  # another one is answered meanwhile
            said[0] = NONE
            owner.news("a" * 32)
            assert answer.result(timeout=20) == (NONE,)
            assert time.monotonic() - began < 10
            said[0] = RUNNING
            answer = asking.submit(hold)
            soon(lambda: any(one.held for one in owner._crowd))
            question.break_off()
            with pytest.raises(BrokenOffError):
                answer.result(timeout=20)
        soon(lambda: not len(owner._crowd))
        assert not owner.dropped
    finally:
        owner.close()


def test_news_that_come_too_late_are_nobodys() -> None:
    owner = HandshakeServer("127.0.0.1", 0, resolve=lambda *_: (RUNNING,))
    with ThreadPoolExecutor(1) as asking:
        question = asking.submit(
            resolve_claims, "127.0.0.1", owner.port, ["a" * 32], timeout=3, unlike=digest([RUNNING]), hold=10.0
        )
        soon(lambda: any(one.held for one in owner._crowd))
        owner.close()
        owner.news("a" * 32)
        with pytest.raises(ConnectError):
            question.result(timeout=20)


def test_one_that_was_broken_off_before_it_began_is_not_waited_for() -> None:
    owner = HandshakeServer("127.0.0.1", 0, resolve=lambda *_: (RUNNING,))
    question = Breakable()
    question.break_off()
    try:
        with pytest.raises(BrokenOffError):
            resolve_claims("127.0.0.1", owner.port, ["a" * 32], timeout=10, breakable=question)
        question.begin()
        assert resolve_claims("127.0.0.1", owner.port, ["a" * 32], timeout=10, breakable=question) == (RUNNING,)
    finally:
        owner.close()
