# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Every ordinary kind of request, prefilled at one engine and decoded at another, and nothing left behind by any."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from engines import (
    AGGREGATED,
    BLOCK,
    DECODE,
    SMALL,
    Engine,
    block_bytes,
    blocks_to_move,
    completion_body,
    disaggregated,
    ended_leases,
    name,
    only_pull,
    prefill,
    stream,
    text,
    tokens,
    wait_until,
    wait_until_ended,
    wait_until_idle,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pool import EnginePool

pytestmark = [pytest.mark.vllm, pytest.mark.engines(AGGREGATED, SMALL, DECODE)]

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


@pytest.fixture
def trio(pool: EnginePool) -> Iterator[list[Engine]]:
    """An owner with few blocks and few lease slots: what a request leaves behind would be missed by the next ones."""
    engines = pool.get(AGGREGATED, SMALL, DECODE)
    _, owner, reader = engines
    expired = ended_leases(owner, "expired")
    yield engines
    wait_until_idle(owner, reader)
    assert ended_leases(owner, "expired") == expired, "every lease was completed by its reader"


def expect(aggregated: Engine, prompt: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    return aggregated.complete(prompt, name("reference"), **more)


def without_rounding(choice: dict[str, Any]) -> dict[str, Any]:
    """A choice whose log probabilities are rounded: engines that add in another order differ in the last digits."""

    def rounded(value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, float):
            return round(value, 2) + 0.0
        if isinstance(value, dict):
            return {key: rounded(item) for key, item in value.items()}
        return [rounded(item) for item in value] if isinstance(value, list) else value

    result: dict[str, Any] = rounded(choice)
    return result


@pytest.mark.parametrize("length", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK - 1, 3 * BLOCK, 3 * BLOCK + 1])
def test_around_the_edges_of_blocks(trio: list[Engine], pool: EnginePool, length: int) -> None:
    aggregated, owner, reader = trio
    prompt, request_id = text(length), name("edge")
    completed = ended_leases(owner, "completed")
    assert tokens(disaggregated(owner, reader, prompt, request_id)) == tokens(expect(aggregated, prompt))
    if length == 1:
        assert reader.pulls(request_id) == []
    else:
        record = only_pull(reader, request_id)
        assert (record["status"], record["tokens"]) == ("ok", length - 1)
        assert record["bytes"] == blocks_to_move(length) * block_bytes(pool)
    wait_until_ended(owner, "completed", completed + 1)


def hits_of(engine: Engine) -> float:
    return engine.metric("vllm:prompt_tokens_by_source_total", source="local_cache_hit")


def test_what_the_reader_has_is_not_pulled_and_the_lease_is_completed(trio: list[Engine]) -> None:
    """The whole prompt but its last token is whole blocks, so the second time nothing is left to pull."""
    aggregated, owner, reader = trio
    prompt = text(4 * BLOCK + 1)
    expected = tokens(expect(aggregated, prompt))
    completed = ended_leases(owner, "completed")
    for hits in (0, 4 * BLOCK):
        request_id = name("again")
        cached = hits_of(reader)
        assert tokens(disaggregated(owner, reader, prompt, request_id)) == expected
        assert [record["tokens"] for record in reader.pulls(request_id)] == ([] if hits else [4 * BLOCK])
        wait_until(lambda: hits_of(reader) - cached == hits, "vLLM publishes its counters")  # noqa: B023
    request_id, longer = name("longer"), prompt + " and more"
    assert tokens(disaggregated(owner, reader, longer, request_id)) == tokens(expect(aggregated, longer))
    assert only_pull(reader, request_id)["start"] == 4 * BLOCK
    wait_until_ended(owner, "completed", completed + 3)


def samples(prompt: str, count: int, params: dict[str, Any] | None = None) -> dict[str, Any]:
    """vLLM wants a temperature for n > 1; with one candidate left it is as good as greedy."""
    more = {} if params is None else {"kv_transfer_params": params}
    return completion_body(prompt, 16, n=count, top_k=1, **more) | {"temperature": 1.0}


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_several_samples_of_one_prompt(trio: list[Engine], count: int, streamed: bool) -> None:
    """They share one lease, which ends with the last of them, whether they wait for each other or not."""
    aggregated, owner, reader = trio
    prompt, request_id = text(200), name("samples")
    expected = tokens(expect(aggregated, prompt))
    completed = ended_leases(owner, "completed")
    failed = reader.metric("vllm:kvdirect_num_failed_transfers_total")
    params = prefill(owner, prompt, request_id)
    got: list[list[int]] = [[] for _ in range(count)]
    if streamed:
        for chunk in stream(reader, samples(prompt, count, params), request_id):
            for choice in chunk["choices"]:
                got[choice["index"]] += choice.get("token_ids") or []
    else:
        answer = reader.post(COMPLETIONS, samples(prompt, count, params), request_id)
        assert answer.status_code == 200, answer.text
        got = [choice["token_ids"] for choice in answer.json()["choices"]]
    assert got == [expected] * count
    assert {record["status"] for record in reader.pulls(request_id)} == {"ok"}
    wait_until_ended(owner, "completed", completed + 1)
    wait_until_idle(reader)
    assert reader.metric("vllm:kvdirect_num_failed_transfers_total") == failed


KINDS: dict[str, dict[str, Any]] = {
    "one token": {"max_tokens": 1},
    "stop string": {"stop": ["e", "o", "a", "t"], "max_tokens": 64},
    "stop string at once": {"stop": ["e"], "allowed_token_ids": [3 + ord("e") - ord("!")], "max_tokens": 64},
    "stop token": {"stop_token_ids": list(range(3, 320, 3)), "max_tokens": 64},
    "stop token at once": {"stop_token_ids": list(range(3, 320)), "max_tokens": 64},
    "end of sequence": {"ignore_eos": False, "max_tokens": 64},
    "at least so many": {"min_tokens": 8, "stop_token_ids": list(range(3, 320, 3)), "max_tokens": 24},
    "logprobs": {"logprobs": 3},
    "echo": {"echo": True},
    "echo and logprobs": {"echo": True, "logprobs": 2},
    "prompt logprobs": {"prompt_logprobs": 2},
    "penalties": {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.5},
    "logit bias": {"logit_bias": {str(i): -100 for i in range(3, 200)}},
    "bad words": {"bad_words": ["e"]},
    "allowed tokens": {"allowed_token_ids": list(range(3, 60))},
    "a choice": {"structured_outputs": {"choice": ["red", "green"]}, "max_tokens": 8, "ignore_eos": False},
    "long": {"max_tokens": 200},
    "cut on the left": {"truncate_prompt_tokens": 100},
    "salted": {"cache_salt": "salt"},
}
# vLLM computes the whole prompt where its log probabilities are asked for.
COMPUTED_HERE = {"echo and logprobs", "prompt logprobs"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_completion(trio: list[Engine], kind: str) -> None:
    """Both engines get the client's parameters, as a simple router sends them."""
    aggregated, owner, reader = trio
    prompt, request_id = text(150), name("kind")
    completed = ended_leases(owner, "completed")
    body = completion_body(prompt, 16) | KINDS[kind]
    expected = aggregated.post(COMPLETIONS, body, name("reference"))
    assert expected.status_code == 200, expected.text
    asked = {key: value for key, value in body.items() if key != "min_tokens"} | {"max_tokens": 1}
    first = owner.post(COMPLETIONS, asked | {"kv_transfer_params": {"do_remote_decode": True}}, request_id).json()
    params = first["kv_transfer_params"]
    answer = reader.post(COMPLETIONS, body | {"kv_transfer_params": params}, request_id)
    assert answer.status_code == 200, answer.text
    assert without_rounding(answer.json()["choices"][0]) == without_rounding(expected.json()["choices"][0])
    assert [record["status"] for record in reader.pulls(request_id)] == ([] if kind in COMPUTED_HERE else ["ok"])
    wait_until_ended(owner, "completed", completed + 1)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_chat(trio: list[Engine], streamed: bool) -> None:
    aggregated, owner, reader = trio
    messages = [{"role": "system", "content": text(40)}, {"role": "user", "content": text(120)}]
    body = {"model": "demo", "messages": messages, "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    body |= {"logprobs": True, "return_token_ids": True}
    request_id = name("chat")
    expected = aggregated.post(CHAT, body, name("reference")).json()
    asked = body | {"max_tokens": 1, "kv_transfer_params": {"do_remote_decode": True}}
    params = owner.post(CHAT, asked, request_id).json()["kv_transfer_params"]
    body |= {"kv_transfer_params": params}
    if streamed:
        chunks = stream(reader, body, request_id, path=CHAT)
        got = [token for chunk in chunks for choice in chunk["choices"] for token in choice.get("token_ids") or []]
    else:
        got = tokens(reader.post(CHAT, body, request_id).json())
    assert got == tokens(expected)
    assert only_pull(reader, request_id)["status"] == "ok"


def test_token_ids_as_prompt(trio: list[Engine]) -> None:
    aggregated, owner, reader = trio
    ids: Any = [3 + i * 7 % 250 for i in range(90)]
    request_id = name("ids")
    assert tokens(disaggregated(owner, reader, ids, request_id)) == tokens(expect(aggregated, ids))
    assert only_pull(reader, request_id)["tokens"] == 89


@pytest.mark.parametrize("at_once", [False, True], ids=["one after the other", "at once"])
def test_the_same_ticket_twice(trio: list[Engine], at_once: bool) -> None:
    aggregated, owner, reader = trio
    prompt, names = text(130), [name("first"), name("second")]
    expected = tokens(expect(aggregated, prompt))
    completed = ended_leases(owner, "completed")
    params = prefill(owner, prompt, names[0])

    def run(request_id: str) -> list[int]:
        return tokens(reader.complete(prompt, request_id, kv_transfer_params=params))

    with ThreadPoolExecutor(2 if at_once else 1) as threads:
        assert list(threads.map(run, names)) == [expected] * 2
    assert {record["status"] for request_id in names for record in reader.pulls(request_id)} == {"ok"}
    if not at_once:
        assert reader.pulls(names[1]) == []
    wait_until_ended(owner, "completed", completed + 1)


def test_another_prompt_than_the_one_that_was_prefilled(trio: list[Engine]) -> None:
    """It is told by its tokens, served all the same, and leaves nothing wrong in the cache; one that goes on fits."""
    aggregated, owner, reader = trio
    prompt = text(5 * BLOCK)
    others = [text(5 * BLOCK), prompt[:-1] + "?", prompt[: 3 * BLOCK], prompt[1:]]
    for other in others:
        request_id = name("other")
        params = prefill(owner, prompt, request_id)
        answer = reader.complete(other, request_id, kv_transfer_params=params)
        assert tokens(answer) == tokens(expect(aggregated, other))
        assert reader.pulls(request_id) == []
        assert "kvdirect_prompt: not the 160 tokens that were prefilled elsewhere" in reader.log
        wait_until_idle(owner)
    request_id, longer = name("longer"), prompt + text(70)
    params = prefill(owner, prompt, request_id)
    answer = reader.complete(longer, request_id, kv_transfer_params=params)
    assert tokens(answer) == tokens(expect(aggregated, longer))
    assert only_pull(reader, request_id)["status"] == "ok"
    assert tokens(reader.complete(prompt, name("alone"))) == tokens(expect(aggregated, prompt))


def test_many_at_once(trio: list[Engine]) -> None:
    """More than either engine runs at a time, and more blocks than the owner has."""
    aggregated, owner, reader = trio
    prompts = [text(length) for length in [BLOCK, 400, 1, 90, 200, BLOCK + 1, 150, 64] * 3]
    expected = [tokens(expect(aggregated, prompt)) for prompt in prompts]
    names = [name("many") for _ in prompts]

    def run(prompt: str, request_id: str) -> list[int]:
        return tokens(disaggregated(owner, reader, prompt, request_id))

    with ThreadPoolExecutor(len(prompts)) as threads:
        assert list(threads.map(run, prompts, names)) == expected
    statuses = [[record["status"] for record in reader.pulls(request_id)] for request_id in names]
    assert statuses == [["ok"] if len(prompt) > 1 else [] for prompt in prompts]


@pytest.mark.parametrize(
    "change",
    [{"max_tokens": 5000}, {"temperature": -1}, {"top_p": 5}, {"prompt": "x" * 3000}, {"stop": ""}, {"n": 0}],
    ids=lambda change: next(iter(change)),
)
def test_a_request_that_the_decode_engine_refuses_gives_its_lease_back(
    trio: list[Engine], change: dict[str, Any]
) -> None:
    """At once: vLLM tells its connector of a request that it refused, and the owner hears of it."""
    _, owner, reader = trio
    prompt, request_id = text(120), name("refused")
    completed = ended_leases(owner, "completed")
    params = prefill(owner, prompt, request_id)
    answer = reader.post(COMPLETIONS, completion_body(prompt, 8, kv_transfer_params=params) | change, request_id)
    assert answer.status_code == 400, answer.text
    wait_until_ended(owner, "completed", completed + 1)


def test_a_ticket_can_be_given_back(trio: list[Engine]) -> None:
    """What a router can do with a ticket it has no use for, whatever the decode engine made of the request."""
    _, owner, reader = trio
    prompt, request_id = text(120), name("malformed")
    completed = ended_leases(owner, "completed")
    params = prefill(owner, prompt, request_id)
    body = completion_body(prompt, 8, kv_transfer_params=params)
    assert reader.post(COMPLETIONS, body | {"max_tokens": "many"}, request_id).status_code in {400, 422}
    wait_until(lambda: owner.metric("vllm:kv_cache_usage_perc") > 0, "vLLM says that the blocks are held")
    nothing = {"model": "demo", "prompt": "x", "max_tokens": 2**31 - 1, "kv_transfer_params": params}
    assert reader.post(COMPLETIONS, nothing, request_id).status_code == 400
    wait_until_ended(owner, "completed", completed + 1)
