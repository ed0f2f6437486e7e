# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Every kind of cache between real engines: what a reader answers, and what it pulled for it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from models import VOCABULARY
from row_engines import ASK_TO_KEEP, Engine, request

from kvdirect.transfer_params import RemoteLease, prompt_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conftest import Pair
    from images import Pictured

TOKENS = 16
Prompt = list[int]
Ticket = dict[str, Any]


def prompts(lengths: Sequence[int], seed: int = 1) -> list[Prompt]:
    numbers = random.Random(seed)  # noqa: S311  (the same ones each time)
    return [[numbers.randrange(3, VOCABULARY) for _ in range(length)] for length in lengths]


def ask(engine: Engine, requests: Sequence[dict[str, Any]], *, alone: bool) -> list[dict[str, Any]]:
    return [engine.ask([request])[0] for request in requests] if alone else engine.ask(requests)


def lend(pair: Pair, asked: Sequence[Prompt | Pictured]) -> list[Ticket]:
    """Prefill; the client's side of it counts whole prompts."""
    requests = [request("prefill", prompt, 1, kv_transfer_params=ASK_TO_KEEP) for prompt in asked]
    answers = ask(pair.owner, requests, alone=pair.row.alone)
    assert [answer["prompt_tokens"] for answer in answers] == list(map(len, asked))
    assert all(len(answer["tokens"]) == 1 for answer in answers)
    return [answer["params"] for answer in answers]


def read(pair: Pair, asked: Sequence[Prompt | Pictured], tickets: Sequence[Ticket]) -> list[dict[str, Any]]:
    """Completions from tickets, each with the record of its pull."""
    requests = [
        request("decode", prompt, TOKENS, kv_transfer_params=ticket)
        for prompt, ticket in zip(asked, tickets, strict=True)
    ]
    answers = ask(pair.reader, requests, alone=pair.row.alone)
    pulls, landed = pair.reader.pulls(), pair.reader.landed()
    return [
        {**answer, "pull": pulls.get(request["id"]), "landed": landed.get(request["id"])}
        for answer, request in zip(answers, requests, strict=True)
    ]


def reference(pair: Pair, asked: Sequence[Prompt | Pictured]) -> list[dict[str, Any]]:
    """What the reader says without a ticket: of its own prefill, or of one that stops before the last token.

    Where vLLM's kernels give no answer that others could be compared with, what it says of what it pulls.
    """
    pair.reader.reset()
    if not pair.row.comparable:
        return read(pair, asked, lend(pair, asked))
    if pair.row.exact:
        requests = [request("whole", prompt, TOKENS) for prompt in asked]
        answers = ask(pair.reader, requests, alone=pair.row.alone)
    else:
        requests = [request("on", prompt[:-1], TOKENS + 1, first=prompt[-1]) for prompt in asked]
        answers = ask(pair.reader, requests, alone=pair.row.alone)
        answers = [{key: answer[key][1:] for key in ("tokens", "logprobs")} for answer in answers]
    pair.reader.reset()
    return answers


def differing(found: Sequence[dict[str, Any]], expected: Sequence[dict[str, Any]], tolerance: float) -> list[int]:
    """Which answers have another token, or a log-probability that is further off."""

    def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
        off = max(abs(a - b) for a, b in zip(one["logprobs"], other["logprobs"], strict=True))
        return bool(one["tokens"] == other["tokens"]) and off <= tolerance

    return [i for i, pair in enumerate(zip(found, expected, strict=True)) if not same(*pair)]


def expected_bytes(pair: Pair, tokens: int, hits: int = 0) -> int:
    """What the row's geometry says, worked out with nothing but vLLM's block sizes."""
    groups = pair.reader.groups
    assert [group["kind"] for group in groups] == [part.kind for part in pair.row.parts]
    return sum(
        part.bytes(tokens, hits, group["block_size"]) for part, group in zip(pair.row.parts, groups, strict=True)
    )


def needed(pair: Pair, ticket: Ticket, tokens: int) -> list[list[int]]:
    """The owner's blocks that a reader of so many tokens pulls, for each group."""
    parts = zip(pair.row.parts, pair.owner.groups, ticket["remote_block_ids"], strict=True)
    return [
        [block for block in table if block][: part.blocks(tokens, 0, group["block_size"])]
        for part, group, table in parts
    ]


def doctored(ticket: Ticket, prompt: Prompt, tokens: int) -> Ticket:
    """A ticket that says another number of tokens, and is believed."""
    epoch = RemoteLease.decode(ticket["kvdirect_lease"]).epoch
    digest = prompt_digest(prompt[:tokens], epoch)
    return {**ticket, "remote_num_tokens": tokens, "kvdirect_prompt": digest}


def check_completions_and_bytes(pair: Pair, asked: Sequence[Prompt | Pictured]) -> None:
    lengths = list(map(len, asked))
    tickets = lend(pair, asked)
    lent = pair.owner.digests([needed(pair, ticket, length) for ticket, length in zip(tickets, lengths, strict=True)])
    answers = read(pair, asked, tickets)
    pair.owner.wait_until_idle()
    pair.reader.wait_until_idle()
    wrong = differing(answers, reference(pair, asked), pair.row.tolerance)
    assert [lengths[i] for i in wrong] == []
    for length, answer, digests in zip(lengths, answers, lent, strict=True):
        if length == 1:
            assert answer["pull"] is None, "there is nothing before the last token"
        else:
            assert answer["pull"]["status"] == "ok", answer["pull"]
            assert answer["pull"]["bytes"] == expected_bytes(pair, length), length
            assert answer["landed"] == digests, length
            assert set(digests) == {layer for group in pair.reader.groups for layer in group["layers"]}
    assert len({tuple(answer["tokens"]) for answer in answers}) > len(answers) // 2, "the model says one thing only"


def check_that_zeroes_are_noticed(pair: Pair, asked: Sequence[Prompt | Pictured]) -> None:
    expected = reference(pair, asked)
    for group in pair.reader.groups:
        pair.reader.zero(group["layers"][0])
        answers = read(pair, asked, lend(pair, asked))
        pair.reader.zero(None)
        pair.reader.reset()
        assert all(answer["pull"]["status"] == "ok" for answer in answers)
        assert len(differing(answers, expected, pair.row.tolerance)) > len(asked) // 2, group


def test_completions_and_bytes(pair: Pair) -> None:
    check_completions_and_bytes(pair, prompts([length for length in pair.row.lengths if pair.row.exact or length > 1]))


@pytest.mark.rows(lambda row: row.prefixes)
def test_what_the_reader_has_is_not_pulled(pair: Pair) -> None:
    asked = prompts([520, 610])
    longer = [prompt + tail for prompt, tail in zip(asked, prompts([150, 90], seed=2), strict=True)]
    read(pair, asked, lend(pair, asked))
    answers = read(pair, longer, lend(pair, longer))
    pair.owner.wait_until_idle()
    for prompt, answer in zip(longer, answers, strict=True):
        pull = answer["pull"]
        assert pull["status"] == "ok", pull
        assert pull["start"] >= 256, "it has the beginning"
        assert pull["bytes"] == expected_bytes(pair, len(prompt), pull["start"])
    assert differing(answers, reference(pair, longer), pair.row.tolerance) == []


def test_a_part_that_is_zeroed_is_noticed(pair: Pair) -> None:
    """Negative control: so the comparisons look at every group."""
    check_that_zeroes_are_noticed(pair, prompts([70, 150, 260, 333, 500], seed=3))


@pytest.mark.rows(lambda row: row.forgets)
def test_what_is_kept_for_the_next_position_is_not_enough(pair: Pair) -> None:
    """Negative control: the owner went on by one token, and its ticket says that it did not."""
    blocks = pair.reader.groups[0]["block_size"]
    part = pair.row.parts[0]
    if part.state:
        lengths = [40, 100, 161, 300]
    elif part.window:
        lengths = [part.window - 1 + k * blocks for k in (1, 2, 4)]
    else:
        lengths = [k * part.chunk for k in (1, 2, 3)]
    asked = prompts(lengths, seed=4)
    tickets = lend(pair, [[*prompt, 7] for prompt in asked])
    assert [ticket["remote_num_tokens"] for ticket in tickets] == lengths
    lies = [doctored(ticket, prompt, len(prompt) - 1) for ticket, prompt in zip(tickets, asked, strict=True)]
    answers = read(pair, asked, lies)
    expected = reference(pair, asked)
    failed = [answer["pull"]["status"] == "failed" for answer in answers]
    if part.state:
        assert not any(failed)
        assert len(differing(answers, expected, pair.row.tolerance)) > len(asked) // 2
    else:  # the block is gone, and the reader says so
        assert all(failed)
        assert all("is a hole" in answer["pull"]["reason"] for answer in answers)


@pytest.mark.rows(lambda row: row.forgets)
def test_what_went_on_to_the_last_token_is_prefilled_here(pair: Pair) -> None:
    asked = prompts([100, 161], seed=5)
    tickets = lend(pair, [[*prompt, 7] for prompt in asked])
    answers = read(pair, asked, tickets)
    assert [answer["pull"] for answer in answers] == [None, None]
    pair.owner.wait_until_idle()
    if pair.row.exact:
        assert differing(answers, reference(pair, asked), pair.row.tolerance) == []


def test_a_failed_pull_costs_one_request_its_cache(pair: Pair) -> None:
    """By request: block ids of several groups would end the engine."""
    lengths = [50, 161, 300]
    asked = prompts(lengths, seed=6)
    tickets = lend(pair, asked)
    lease = RemoteLease.decode(tickets[1]["kvdirect_lease"])
    other = RemoteLease(lease.incarnation, lease.slot, lease.epoch ^ 1, lease.ranks)
    wrong = {**tickets[1], "kvdirect_lease": other.encode()}
    wrong["kvdirect_prompt"] = prompt_digest(asked[1][: wrong["remote_num_tokens"]], other.epoch)
    answers = read(pair, asked, [tickets[0], wrong, tickets[2]])
    assert [answer["pull"]["status"] for answer in answers] == ["ok", "failed", "ok"]
    pair.reader.wait_until_idle()
    if pair.row.exact and pair.row.comparable:
        assert differing(answers, reference(pair, asked), pair.row.tolerance) == []
    read(pair, asked[1:2], tickets[1:2])  # or its lease would be held until it expires
    pair.owner.wait_until_idle()
