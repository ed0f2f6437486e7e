# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""In which order requests begin and streams go on, in the turns of a real loop."""

import asyncio
from collections import Counter

from kvdirect.router.pace import Pace


class Stream:
    """Notes in which turn it goes on."""

    def __init__(self, turns: list[int], now: Counter[str]) -> None:
        self._turns = turns
        self._now = now

    def go_on(self) -> None:
        self._turns.append(self._now["turn"])


async def _count(now: Counter[str]) -> None:
    while True:
        await asyncio.sleep(0)
        now["turn"] += 1


async def _measure(starts: int, streams: int) -> tuple[list[int], list[int]]:
    """The turns in which so many requests began and streams went on that had come in one turn."""
    pace, now = Pace(), Counter[str]()
    counting = asyncio.create_task(_count(now))
    began: list[int] = []
    went: list[int] = []

    async def start() -> None:
        await pace.start()
        began.append(now["turn"])

    tasks = [asyncio.create_task(start()) for _ in range(starts)]
    await asyncio.sleep(0)
    for _ in range(streams):
        stream = Stream(went, now)
        if pace.ask(stream):
            stream.go_on()
    async with asyncio.timeout(10):
        await asyncio.gather(*tasks)
        while len(went) < streams:  # noqa: ASYNC110 (turns are what is counted)
            await asyncio.sleep(0)
    counting.cancel()
    return began, went


def test_a_few_of_each_wait_for_nothing() -> None:
    began, went = asyncio.run(_measure(3, 3))
    assert max(began) <= 1
    assert max(went) <= 1


def test_of_many_requests_a_few_begin_in_each_turn() -> None:
    began, _ = asyncio.run(_measure(400, 0))
    each = Counter(began)
    assert len(each) >= 400 / 64
    assert max(each.values()) <= 64
    assert began == sorted(began)


def test_while_requests_begin_few_streams_go_on_and_then_many() -> None:
    began, went = asyncio.run(_measure(400, 400))
    beside = [turn for turn in went if began[0] + 1 < turn < max(began)]
    assert 0 < len(beside) < 400 / 4  # none is held up for good
    after = Counter(turn for turn in went if turn > max(began) + 1)
    assert max(after.values()) > 32
