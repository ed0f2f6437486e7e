# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""States where vLLM keeps prefixes, one for each block, in its real scheduler: which one moves, and what with it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

from played_scheduler import BLOCK, FULL, Played, elsewhere
from test_forgetting import DECODE, STATE, WINDOW, prefill
from test_hybrid_life import finish, hashed, ticket

if TYPE_CHECKING:
    from collections.abc import Callable

# A state for every block, as vLLM has them where it keeps prefixes; and room for guesses behind the newest.
ALIGNED = dataclasses.replace(STATE, block_size=BLOCK, mamba_cache_mode="align", num_speculative_blocks=2)


@pytest.mark.parametrize("tokens", [64, 97, 98, 130])
def test_the_newest_of_several_states_is_lent_and_not_the_room_for_guesses(
    play: Callable[..., Played], tokens: int
) -> None:
    owner = play("kv_producer", specs=(ALIGNED, FULL))
    request = owner.add(tokens, dict(DECODE))
    params, told = prefill(owner, request)
    table = owner.scheduler.kv_cache_manager.get_block_ids(request.request_id)[0]
    newest = table[(tokens - 2) // BLOCK]
    assert newest != 0
    assert params["remote_block_ids"][0] == [newest]
    assert told[-1].settled[0].tables[0] == [newest]


def test_a_state_lands_where_the_next_token_looks_for_it(play: Callable[..., Played]) -> None:
    reader = play("kv_consumer", specs=(ALIGNED, FULL))
    request = reader.add(130, ticket("state"), max_tokens=2)
    _, metadata = reader.schedule()
    table = reader.scheduler.kv_cache_manager.get_block_ids(request.request_id)[0]
    assert metadata.pulls[0].local[0] == [table[128 // BLOCK]]
    assert table[128 // BLOCK] != 0


def read_once(reader: Played) -> None:
    """A prompt of 130 tokens: of attention its whole blocks stay; its state is of a position where no prefix ends."""
    request = reader.add(130, ticket("state"), max_tokens=2)
    reader.answer(reader.schedule()[0], received={request.request_id})
    finish(reader, request)
    reader.answer(reader.schedule()[0])
    assert hashed(reader) == 4


LONGER: dict[str, Any] = {"remote_block_ids": [[9], [*range(1, 8)]]}


def test_attention_is_not_pulled_again_where_only_the_state_is_missing(play: Callable[..., Played]) -> None:
    reader = play("kv_consumer", specs=(ALIGNED, FULL))
    read_once(reader)
    request = reader.add(200, elsewhere(199, **LONGER), max_tokens=2)
    (order,) = reader.schedule()[1].pulls
    assert (order.start, order.stop, order.watermark) == (128, 224, 199)
    state, attention = reader.scheduler.kv_cache_manager.get_block_ids(request.request_id)
    assert order.local == ([state[198 // BLOCK]], attention)


@pytest.mark.parametrize("pulled", [False, True], ids=["no ticket", "a failed pull"])
def test_without_a_state_from_elsewhere_all_is_computed(play: Callable[..., Played], pulled: bool) -> None:
    reader = play("kv_consumer", specs=(ALIGNED, FULL), policy="recompute")
    read_once(reader)
    request = reader.add(200, elsewhere(199, **LONGER) if pulled else None, max_tokens=2)
    output, metadata = reader.schedule()
    if pulled:
        assert [order.start for order in metadata.pulls] == [128]
        reader.answer(output, received={request.request_id}, failed={request.request_id})
        output, _ = reader.schedule()
    assert request.num_computed_tokens == output.num_scheduled_tokens[request.request_id] == 64
    reader.answer(output)
    finish(reader, request)
    reader.schedule()
    assert reader.all_blocks_are_free


@pytest.mark.parametrize(
    ("role", "specs", "stays"),
    [
        ("kv_producer", (ALIGNED, FULL), ()),
        ("kv_consumer", (ALIGNED, WINDOW, FULL), ()),
        ("kv_consumer", (ALIGNED, FULL), (0,)),
        ("kv_consumer", (WINDOW, FULL), ()),
    ],
    ids=["nothing is read", "a window lags", "its state does not move", "no state"],
)
def test_what_a_pull_does_not_restore_limits_the_prefix(
    play: Callable[..., Played], role: str, specs: tuple[Any, ...], stays: tuple[int, ...]
) -> None:
    connector = play(role, specs=specs, stays=stays).scheduler.connector
    assert not connector.supports_divergent_local_hybrid_hits
