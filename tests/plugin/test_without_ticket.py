# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A router that sends no tickets is noticed by the engine that should have had them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

from played_scheduler import Played, elsewhere, stage

from kvdirect.scheduler.half import SUSPICIOUS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MESSAGE = "has a ticket"


@pytest.fixture
def play(model: Path) -> Iterator[Callable[..., Played]]:
    with stage(model) as start:
        yield start


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What the plugin's logger says; vLLM's hands nothing on to pytest's."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Keep()
    logging.getLogger("vllm.kvdirect").addHandler(handler)
    yield lines
    logging.getLogger("vllm.kvdirect").removeHandler(handler)


def without_ticket(played: Played) -> int:
    stats = played.scheduler.connector.get_kv_connector_stats()
    return 0 if stats is None else int(stats.data["without_ticket"])


def test_a_reader_counts_them_and_says_so_once(play: Callable[..., Played], said: list[str]) -> None:
    reader = play("kv_consumer")
    for number in range(SUSPICIOUS + 4):
        assert len([line for line in said if MESSAGE in line]) == (number >= SUSPICIOUS)
        reader.add(40, start=number)
    assert without_ticket(reader) == SUSPICIOUS + 4
    assert len([line for line in said if MESSAGE in line]) == 1


def test_one_that_has_had_a_ticket_only_counts(play: Callable[..., Played], said: list[str]) -> None:
    reader = play("kv_consumer")
    reader.add(40, elsewhere(40))
    for number in range(SUSPICIOUS + 4):
        reader.add(40, start=number + 1)
    assert without_ticket(reader) == SUSPICIOUS + 4
    assert not [line for line in said if MESSAGE in line]


@pytest.mark.parametrize("role", ["kv_producer", "kv_both"])
def test_an_engine_that_prefills_expects_none(play: Callable[..., Played], role: str) -> None:
    engine = play(role)
    for number in range(3):
        engine.add(40, start=number)
    assert without_ticket(engine) == 0


def test_a_wrong_value_harms_nobody(play: Callable[..., Played]) -> None:
    reader = play("kv_consumer")
    reader.add(40, {"do_remote_prefill": "yes"})
    assert without_ticket(reader) == 0
