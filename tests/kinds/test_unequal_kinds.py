# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Kinds of cache between engines of other tensor parallelism: the tokens, and the bytes that each rank needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from row_engines import name
from test_kinds import TOKENS, expected_bytes, lend, needed, prompts, reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conftest import Pair
    from row_engines import Engine
    from test_kinds import Prompt, Ticket

RANKS = ((1, 2), (2, 1))
CASES = [(row, *ranks) for row in ("window", "Mamba2", "gated delta net") for ranks in RANKS]


def named(case: tuple[str, int, int]) -> str:
    return f"{case[0]} {case[1]}-{case[2]}"


def ranks_of(engine: Engine) -> int:
    return int(engine.options.get("tensor_parallel_size", 1))


def whole_everywhere(pair: Pair, tokens: int) -> int:
    """Bytes that every rank of the reader pulls although others do, too."""
    if pair.row.name == "latent":
        return expected_bytes(pair, tokens)
    return 2 * 2 * 32 * 3 * 4 if pair.row.name == "Mamba2" else 0  # B and C of two layers, where they have one group


# In bfloat16 ranks of another number round otherwise, and one token of many may be another. Log-probabilities of the
# first one are off by 0.03 then; where a layer's state is missing, by 0.3 and more.
TOLERANCE = 0.1


def decoded(pair: Pair, asked: Sequence[Prompt], tickets: Sequence[Ticket] | None = None) -> dict[str, dict[str, Any]]:
    """Answers from tickets, one after the other, by request."""
    requests = [
        {"id": name("decode"), "prompt": prompt, "max_tokens": TOKENS, "kv_transfer_params": ticket}
        for prompt, ticket in zip(asked, tickets or lend(pair, asked), strict=True)
    ]
    return {request["id"]: pair.reader.ask([request])[0] for request in requests}


def right(pair: Pair, answer: dict[str, Any], expected: dict[str, Any]) -> bool:
    if pair.row.dtype == "float32":
        return bool(answer["tokens"] == expected["tokens"])
    off = abs(answer["logprobs"][0] - expected["logprobs"][0])
    return bool(answer["tokens"][0] == expected["tokens"][0]) and off < TOLERANCE


def check_bytes(pair: Pair, answers: dict[str, dict[str, Any]], lengths: Sequence[int]) -> None:
    """Each rank of the reader has pulled once for each request, and all of them together what the geometry says."""
    ranks = ranks_of(pair.reader)
    records = pair.reader.records()
    for request_id, length in zip(answers, lengths, strict=True):
        mine = [record for record in records if record["request_id"].startswith(request_id + "-")]
        assert sorted(record["rank"] for record in mine) == list(range(ranks))
        assert {record["status"] for record in mine} == {"ok"}, mine
        pulled = sum(record["bytes"] for record in mine)
        assert pulled == expected_bytes(pair, length) + (ranks - 1) * whole_everywhere(pair, length)


@pytest.mark.kinds
@pytest.mark.parametrize("unequal", CASES, indirect=True, ids=named)
def test_kinds_between_unequal_ranks(unequal: Pair) -> None:
    lengths = [length for length in unequal.row.lengths if length > 1][::3]
    asked = prompts(lengths)
    expected = reference(unequal, asked)
    answers = decoded(unequal, asked)
    unequal.owner.wait_until_idle()
    check_bytes(unequal, answers, lengths)
    assert [right(unequal, *two) for two in zip(answers.values(), expected, strict=True)] == [True] * len(lengths)


@pytest.mark.kinds
@pytest.mark.parametrize("unequal", CASES, indirect=True, ids=named)
def test_what_is_spoilt_between_unequal_ranks_is_noticed(unequal: Pair) -> None:
    """Negative controls: every group, cleared on all ranks; and permuted in the part of the last rank alone."""
    lengths = [70, 150, 260, 333]
    asked = prompts(lengths, seed=3)
    expected = reference(unequal, asked)
    for group in unequal.reader.groups:
        for how, ranks in (("zero", None), ("permute", [ranks_of(unequal.reader) - 1])):
            unequal.reader.spoil(how, group["layers"], ranks)
            answers = decoded(unequal, asked)
            unequal.reader.spoil(how, [])
            unequal.reader.reset()
            found = [right(unequal, *two) for two in zip(answers.values(), expected, strict=True)]
            assert sum(found) < len(found) / 2, (group, how, found)


def pulled_as_lent(pair: Pair, lengths: Sequence[int]) -> list[list[dict[str, bool]]]:
    """For each rank of the reader and each prompt: which layers' bytes are those that a rank of the owner has."""
    asked = prompts(lengths)
    tickets = lend(pair, asked)
    blocks = [needed(pair, ticket, length) for ticket, length in zip(tickets, lengths, strict=True)]
    lent = [pair.owner.digests(blocks, rank) for rank in range(ranks_of(pair.owner))]
    answers = decoded(pair, asked, tickets)
    pair.owner.wait_until_idle()
    pair.reader.wait_until_idle()
    check_bytes(pair, answers, lengths)
    landed = [pair.reader.landed(rank) for rank in range(ranks_of(pair.reader))]
    return [
        [
            {layer: any(one[i][layer] == digest for one in lent) for layer, digest in here[request_id].items()}
            for i, request_id in enumerate(answers)
        ]
        for here in landed
    ]


@pytest.mark.kinds
@pytest.mark.parametrize("unequal", [("latent", *ranks) for ranks in RANKS], indirect=True, ids=named)
def test_latent_caches_are_whole_on_every_rank(unequal: Pair) -> None:
    """By bytes alone: vLLM's kernels for them do not agree with themselves on a CPU."""
    lengths = [length for length in unequal.row.lengths if length > 1]
    first, *rest = unequal.reader.groups[0]["layers"]
    right_ones = dict.fromkeys((first, *rest), True)
    assert pulled_as_lent(unequal, lengths) == [[right_ones] * len(lengths)] * ranks_of(unequal.reader)
    last = ranks_of(unequal.reader) - 1
    unequal.reader.reset()
    unequal.reader.spoil("permute", [first], [last])
    spoilt = pulled_as_lent(unequal, lengths)
    assert spoilt[last] == [{**right_ones, first: False}] * len(lengths), "the control: one layer on one rank"
    assert spoilt[:last] == [[right_ones] * len(lengths)] * last
