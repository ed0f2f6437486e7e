# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Images between real engines: their rows are pulled as text's are, and only for the same image at the same place."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from images import SPELLED, Pictured, with_images
from rows import BLOCK
from test_kinds import (
    check_completions_and_bytes,
    check_that_zeroes_are_noticed,
    differing,
    expected_bytes,
    lend,
    prompts,
    read,
    reference,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from conftest import Pair
    from test_kinds import Prompt

pytestmark = pytest.mark.rows(lambda row: row.images)

SIZE = len(SPELLED)
STEP = 192  # tokens that an engine computes at once
# Images of prompts of so many positions: at a block's beginning and end, across it, across two steps, at either end of
# a prompt (the last position is what a reader computes), side by side, and the same one twice.
PLACES: tuple[tuple[int, Mapping[int, int]], ...] = (
    (70, {0: 1}),
    (100, {2 * BLOCK: 1}),
    (101, {2 * BLOCK - SIZE: 2}),
    (102, {2 * BLOCK - 1: 3}),
    (103, {2 * BLOCK - SIZE + 1: 4}),
    (300, {STEP - SIZE // 2: 5}),
    (4 * BLOCK, {4 * BLOCK - SIZE: 6}),
    (4 * BLOCK + 1, {4 * BLOCK + 1 - SIZE: 7}),
    (4 * BLOCK + 1, {4 * BLOCK - SIZE: 8}),
    (SIZE, {0: 9}),
    (200, {40: 10, 40 + SIZE: 11}),
    (420, {30: 12, 200: 13, 400: 12}),
)


def pictured(places: Sequence[tuple[int, Mapping[int, int]]], seeds: Sequence[int] | None = None) -> list[Pictured]:
    """Prompts of some positions, with images at theirs, each prompt's text from its seed."""
    texts = [prompts([length], seed)[0] for (length, _), seed in zip(places, seeds or itertools.count(), strict=False)]
    return [with_images(text, images) for text, (_, images) in zip(texts, places, strict=True)]


def check_that_it_is_refused(pair: Pair, made: Prompt | Pictured, asked: Prompt | Pictured) -> None:
    """A ticket of one prompt, for another."""
    pair.reader.reset()
    [answer] = read(pair, [asked], lend(pair, [made]))
    assert answer["pull"] is None
    pair.owner.wait_until_idle()
    [own], [others] = reference(pair, [asked]), reference(pair, [made])
    assert differing([answer], [own], pair.row.tolerance) == []
    assert differing([answer], [others], pair.row.tolerance) == [0], "the control"


def test_completions_and_bytes_of_images(pair: Pair) -> None:
    check_completions_and_bytes(pair, pictured(PLACES))


def test_a_part_of_images_that_is_zeroed_is_noticed(pair: Pair) -> None:
    check_that_zeroes_are_noticed(pair, pictured(PLACES[:6]))


def test_images_change_completions(pair: Pair) -> None:
    """Else the tokens would prove nothing."""
    answers = reference(pair, pictured([(100, {40: seed}) for seed in range(1, 6)], seeds=[1] * 5))
    assert len({tuple(answer["tokens"]) for answer in answers}) == len(answers)


@pytest.mark.parametrize(
    ("made", "asked"),
    [
        ({40: 1}, {40: 2}),
        ({40: 1, 80: 2}, {40: 2, 80: 1}),
        ({40: 1, 80: 2}, {40: 1, 80: 3}),
    ],
    ids=["another", "the other way round", "another second one"],
)
def test_a_ticket_is_for_its_own_images(pair: Pair, made: Mapping[int, int], asked: Mapping[int, int]) -> None:
    """Their tokens are the same."""
    first, second = pictured([(150, made), (150, asked)], seeds=(4, 4))
    assert first.spelled == second.spelled
    check_that_it_is_refused(pair, first, second)


def test_who_spells_an_image_does_not_see_it(pair: Pair) -> None:
    [seen] = pictured([(150, {40: 1})], seeds=[4])
    check_that_it_is_refused(pair, seen, seen.spelled)
    check_that_it_is_refused(pair, seen.spelled, seen)


@pytest.mark.rows(lambda row: row.images and not row.forgets)
def test_prefixes_end_before_another_image(pair: Pair) -> None:
    """On both sides: what is in their caches of a prompt with one image is not the beginning of that with another."""
    asked = pictured([(200, {75: 1}), (200, {75: 2})], seeds=(5, 5))
    expected = reference(pair, asked)
    for starts in ([0, 75 // BLOCK * BLOCK], [199 // BLOCK * BLOCK] * 2):
        answers = [read(pair, [prompt], lend(pair, [prompt]))[0] for prompt in asked]
        assert [answer["pull"]["start"] for answer in answers] == starts
        assert [answer["pull"]["bytes"] for answer in answers] == [expected_bytes(pair, 200, start) for start in starts]
        assert differing(answers, expected, pair.row.tolerance) == []
    pair.owner.wait_until_idle()


def test_a_prompt_may_go_on_with_another_image(pair: Pair) -> None:
    """A turn that was prefilled elsewhere, and the next one, which was not."""
    turn, whole = pictured([(130, {100: 1}), (230, {100: 1, 140: 2})], seeds=(6, 6))
    assert whole.spelled[: len(turn)] == turn.spelled
    [answer] = read(pair, [whole], lend(pair, [turn]))
    assert answer["pull"]["status"] == "ok"
    pair.owner.wait_until_idle()
    assert differing([answer], reference(pair, [whole]), pair.row.tolerance) == []
