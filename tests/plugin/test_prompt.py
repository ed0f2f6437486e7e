# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A ticket is for one prompt: the same tokens with another adapter, image, salt or embedding are another prompt."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

import torch
from played_scheduler import Played, prompt_tokens
from vllm.lora.request import LoRARequest
from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
from vllm.sampling_params import SamplingParams
from vllm.v1.request import Request, RequestStatus

from kvdirect.scheduler.prompt import request_digest
from kvdirect.transfer_params import prompt_digest

if TYPE_CHECKING:
    from collections.abc import Callable

TOKENS = 100
EPOCH = 0xDEADBEEFCAFEF00D


def adapter(name: str = "sql", path: str = "/adapters/sql", number: int = 1) -> dict[str, Any]:
    return {"lora_request": LoRARequest(name, number, path)}


def images(*items: tuple[str, int]) -> dict[str, Any]:
    return {
        "mm_features": [
            MultiModalFeatureSpec(None, "image", identifier, PlaceholderRange(offset, 20), identifier)
            for identifier, offset in items
        ]
    }


def embeddings(
    change: int | None = None, *, dtype: torch.dtype = torch.bfloat16, tokens: int = TOKENS
) -> dict[str, Any]:
    values = torch.arange(tokens * 8, dtype=torch.float32).reshape(tokens, 8).to(dtype)
    if change is not None:
        values[change, 3] += 64
    return {"prompt_embeds": values}


# Requests with the same token ids, and whatever vLLM tells their blocks apart by.
PROMPTS: dict[str, dict[str, Any]] = {
    "tokens": {},
    "an adapter": adapter(),
    "another adapter": adapter("chat", "/adapters/chat"),
    "an adapter of this name, elsewhere": adapter("sql", "/adapters/sql-v2"),
    "an adapter of this path, renamed": adapter("sql-v1"),
    "an image": images(("ab" * 32, 10)),
    "another image": images(("cd" * 32, 10)),
    "the image elsewhere": images(("ab" * 32, 11)),
    "two images": images(("ab" * 32, 10), ("cd" * 32, 40)),
    "two images, the other way round": images(("cd" * 32, 10), ("ab" * 32, 40)),
    "an image under an adapter": adapter() | images(("ab" * 32, 10)),
    "a salt": {"cache_salt": "tenant 1"},
    "another salt": {"cache_salt": "tenant 2"},
    "a salt like an adapter": {"cache_salt": "lora"},
    "a salt that is no text": {"cache_salt": "\ud800"},
}
# Their token ids are 0, whatever the embeddings are.
EMBEDDED: dict[str, dict[str, Any]] = {
    "embeddings": embeddings(),
    "other embeddings": embeddings(50),
    "the first differs": embeddings(0),
    "the last differs": embeddings(TOKENS - 1),
    "of another type": embeddings(dtype=torch.float16),
    "embeddings under an adapter": embeddings() | adapter(),
    "salted embeddings": embeddings() | {"cache_salt": "tenant 1"},
}


def request_with(more: dict[str, Any], tokens: int = TOKENS) -> Request:
    ids = None if "prompt_embeds" in more else prompt_tokens(tokens)
    return Request("r", ids, SamplingParams(max_tokens=1), None, **more)


def ticket(owner: Played, start: int, more: dict[str, Any]) -> dict[str, Any]:
    """What an owner gives for a prefill of this prompt."""
    request = owner.add(TOKENS, {"do_remote_decode": True}, start=start, **more)
    while not (params := owner.answer(owner.schedule()[0])):
        pass
    given = params[request.request_id]
    assert given is not None
    return given


TEXT = [name for name, more in PROMPTS.items() if "mm_features" not in more]  # the model on stage sees no images
PAIRS = [pair for names in (TEXT, list(EMBEDDED)) for pair in itertools.product(names, names)]


def test_a_ticket_is_used_for_its_own_prompt_and_no_other(play: Callable[..., Played]) -> None:
    """While only tokens were in the digest, every other one was used as well."""
    owner, reader = play("kv_producer", blocks=600), play("kv_consumer", blocks=600)
    prompts = PROMPTS | EMBEDDED
    wrong = []
    for start, (made, asked) in enumerate(PAIRS):
        request = reader.add(TOKENS, ticket(owner, start, prompts[made]), start=start, **prompts[asked])
        output, metadata = reader.schedule()
        wrong += [(made, asked)] if bool(metadata.pulls) != (made == asked) else []
        if not metadata.pulls:
            assert request.status == RequestStatus.RUNNING
            assert request.request_id in metadata.completes
        reader.answer(output)
        reader.scheduler.finish_requests(request.request_id, RequestStatus.FINISHED_ABORTED)
        reader.answer(reader.schedule()[0], received={request.request_id} if metadata.pulls else None)
    assert wrong == []


def test_every_prompt_has_a_digest_of_its_own() -> None:
    for prompts in (PROMPTS, EMBEDDED):
        digests = {name: request_digest(request_with(more), TOKENS, EPOCH) for name, more in prompts.items()}
        assert len(set(digests.values())) == len(prompts)
        again = {name: request_digest(request_with(more), TOKENS, EPOCH) for name, more in prompts.items()}
        assert again == digests
        others = {request_digest(request_with(more), TOKENS, EPOCH + 1) for more in prompts.values()}
        assert not others & set(digests.values()), "equal prompts are told by the digest"


def test_what_engines_number_by_themselves_is_not_in_it() -> None:
    first, second = (request_with(adapter(number=number)) for number in (1, 7))
    assert request_digest(first, TOKENS, EPOCH) == request_digest(second, TOKENS, EPOCH)


def test_only_what_begins_in_the_covered_positions_counts() -> None:
    """A prompt may go on behind what was prefilled, with another image for instance."""
    short = request_with(images(("ab" * 32, 10)))
    longer = request_with(images(("ab" * 32, 10), ("cd" * 32, TOKENS)), 150)
    assert request_digest(longer, TOKENS, EPOCH) == request_digest(short, TOKENS, EPOCH)
    begun = request_with(images(("ab" * 32, 10), ("cd" * 32, TOKENS - 1)), 150)
    assert request_digest(begun, TOKENS, EPOCH) != request_digest(short, TOKENS, EPOCH)
    more = request_with(embeddings(tokens=150))
    assert request_digest(more, TOKENS, EPOCH) == request_digest(request_with(embeddings()), TOKENS, EPOCH)


@pytest.mark.parametrize("identifier", ["renderer0-mm-1-image-0", "sql:renderer3-mm-12-image-1"])
def test_images_that_were_only_counted_are_never_the_same(identifier: str) -> None:
    """With prefix caching and its processor's cache off vLLM hashes no image: each engine counts from 0."""
    one, other = (request_with(images((identifier, 10))) for _ in range(2))
    assert request_digest(one, TOKENS, EPOCH) != request_digest(other, TOKENS, EPOCH)


def test_an_older_digest_is_another_prompt() -> None:
    """Of token ids only, as engines made it before: who meets it cannot know what else it was made under."""
    assert prompt_digest(prompt_tokens(TOKENS), EPOCH) == request_digest(request_with({}), TOKENS, EPOCH)
    assert request_digest(request_with({}), TOKENS, EPOCH) != "fb44fd2c9b30dc2b"


def test_other_processes_come_to_the_same() -> None:
    """Nothing in it depends on a process, such as Python's randomised `hash`."""
    code = (
        "from kvdirect.transfer_params import prompt_digest\n"
        "conditions = [('lora', 'sql', '/adapters/sql'), ('mm', 'ab' * 32, 10), ('cache_salt', 'tenant 1')]\n"
        f"print(prompt_digest({prompt_tokens(TOKENS)}, {EPOCH}, conditions))"
    )
    more = adapter() | images(("ab" * 32, 10)) | {"cache_salt": "tenant 1"}
    for seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
            env={"PYTHONHASHSEED": seed},
        )
        assert found.stdout.strip() == request_digest(request_with(more), TOKENS, EPOCH)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([("lora", "a", "bc")], [("lora", "ab", "c")]),
        ([("cache_salt", "x")], [("cache_salt", "x\0")]),
        ([("mm", "a", 1)], [("mm", "a", 256)]),
        ([], [("cache_salt", "")]),
        ([("cache_salt", "mm"), ("mm", "a", 1)], [("mm", "a", 1), ("cache_salt", "mm")]),
    ],
)
def test_no_two_lists_are_the_same_bytes(one: list[Any], other: list[Any]) -> None:
    assert prompt_digest([1, 2], EPOCH, one) != prompt_digest([1, 2], EPOCH, other)


def test_tokens_and_what_follows_are_told_apart() -> None:
    """The bytes of two tokens could else be those of one and of a value behind it."""
    assert prompt_digest([1, 8, 2], EPOCH) != prompt_digest([1], EPOCH, [(2,)])
