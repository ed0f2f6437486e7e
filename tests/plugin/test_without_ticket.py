# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A router that sends no tickets is noticed by the engine that should have had them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

from played_scheduler import Played, elsewhere

from kvdirect.scheduler.half import SUSPICIOUS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MESSAGE = "has a ticket"


class Heard(logging.Handler):
    """What the plugin's logger says from here on; vLLM's hands nothing on to pytest's."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        logging.getLogger("vllm.kvdirect").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    @property
    def warnings(self) -> int:
        return len([line for line in self.lines if MESSAGE in line])


@pytest.fixture
def listen() -> Iterator[Callable[[], Heard]]:
    """Call it once there is an engine: vLLM sets its loggers up with the first."""
    heard: list[Heard] = []

    def start() -> Heard:
        heard.append(Heard())
        return heard[-1]

    yield start
    for each in heard:
        logging.getLogger("vllm.kvdirect").removeHandler(each)


def without_ticket(played: Played) -> int:
    stats = played.scheduler.connector.get_kv_connector_stats()
    return 0 if stats is None else int(stats.data["without_ticket"])


def test_a_reader_counts_them_and_says_so_once(play: Callable[..., Played], listen: Callable[[], Heard]) -> None:
    reader = play("kv_consumer")
    heard = listen()
    for number in range(SUSPICIOUS + 4):
        assert heard.warnings == (number >= SUSPICIOUS)
        reader.add(40, None, start=number)
    assert without_ticket(reader) == SUSPICIOUS + 4
    assert heard.warnings == 1


def test_one_that_has_had_a_ticket_only_counts(play: Callable[..., Played], listen: Callable[[], Heard]) -> None:
    reader = play("kv_consumer")
    heard = listen()
    reader.add(40, elsewhere(40))
    for number in range(SUSPICIOUS + 4):
        reader.add(40, None, start=number + 1)
    assert without_ticket(reader) == SUSPICIOUS + 4
    assert not heard.warnings


@pytest.mark.parametrize("role", ["kv_producer", "kv_both"])
def test_an_engine_that_prefills_expects_none(play: Callable[..., Played], role: str) -> None:
    engine = play(role)
    for number in range(3):
        engine.add(40, None, start=number)
    assert without_ticket(engine) == 0


def test_a_wrong_value_harms_nobody(play: Callable[..., Played]) -> None:
    reader = play("kv_consumer")
    reader.add(40, {"do_remote_prefill": "yes"})
    assert without_ticket(reader) == 0
