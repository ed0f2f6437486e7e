# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the demo asks, and how it asks it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from .http_client import event_data, http

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_TOKENS = 24
TALE = (
    "A train of forty wagons left the quay before dawn, and nobody on the platform could say what it carried. "
    "The clerk wrote down each number as it passed, the guard counted them again at the bridge, and both were right. "
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request; prompts of the same `batch` are sent at the same time."""

    name: str
    text: str
    batch: int


@dataclass(frozen=True, slots=True)
class Completion:
    """What came back: token ids, the prompt's length as the engine has it, seconds to the first token and in all."""

    tokens: tuple[int, ...]
    prompt_tokens: int
    ttft: float
    seconds: float


def demo_prompts(block_size: int) -> list[Prompt]:
    """Prompts of one block to many (a character is about a token at most), shared prefixes, and two at once."""
    long = TALE * 8
    shapes = [
        ("less than a block", "Once, "),
        ("exactly one block", long[:block_size]),
        ("one block and one", long[1 : block_size + 2]),
        ("several blocks", TALE[2:] + TALE[:40]),
        ("many blocks", "Many. " + long),
        ("prefix shared, new end", "Many. " + long[: len(long) // 2] + "Then it rained."),
        ("the same once more", "Many. " + long),
    ]
    prompts = [Prompt(name, text, batch) for batch, (name, text) in enumerate(shapes)]
    together = len(shapes)
    prompts.append(Prompt("two at once, first", "First. " + long[:900], together))
    prompts.append(Prompt("two at once, second", "Second. " + long[50:750], together))
    return prompts


def resume(url: str, prompt: str, request_id: str, *, timeout: float) -> Completion:
    """As `complete`, of an engine with FirstToken: the prompt's last token is computed alone, as a reader does it.

    Raises:
        As `complete`.
    """
    asked = http().post(f"{url}/tokenize", json={"model": "demo", "prompt": prompt}, timeout=timeout)
    asked.raise_for_status()
    *before, last = asked.json()["tokens"]
    whole = complete(url, before, request_id, timeout=timeout, max_tokens=MAX_TOKENS + 1, vllm_xargs={"first": last})
    return Completion(whole.tokens[1:], len(before) + 1, whole.ttft, whole.seconds)


def complete(
    url: str,
    prompt: str | Sequence[int],
    request_id: str,
    *,
    timeout: float,
    max_tokens: int = MAX_TOKENS,
    **more: object,
) -> Completion:
    """Stream one greedy completion of a text, or of token ids, from the OpenAI API at `url`.

    Args:
        url: The engine's or the router's.
        prompt: What to go on from.
        request_id: As logs will have it.
        timeout: Seconds without a byte.
        max_tokens: So many will come.
        more: Fields of the request beyond these.

    Raises:
        httpx.HTTPError: It was refused, broke off, or took longer than `timeout` seconds without a byte.
        ValueError: The stream carried an error, or no usage.
    """
    body = {
        "model": "demo",
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        **more,
    }
    tokens: list[int] = []
    prompt_tokens = None
    first = None
    began = time.perf_counter()
    headers = {"X-Request-Id": request_id}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, headers=headers, timeout=timeout) as response:
        if response.is_error:
            response.read()
            raise ValueError(f"{url} answered {response.status_code}: {response.text[:500]}")
        for data in event_data(response):
            chunk = json.loads(data)
            if "error" in chunk:
                raise ValueError(f"{url} broke off: {chunk['error']}")
            for choice in chunk["choices"]:
                first = first or time.perf_counter()
                tokens += choice.get("token_ids") or []
            if chunk.get("usage"):
                prompt_tokens = chunk["usage"]["prompt_tokens"]
    ended = time.perf_counter()
    if prompt_tokens is None or first is None:
        raise ValueError(f"{url} ended the stream of {request_id} without tokens or usage")
    return Completion(tuple(tokens), prompt_tokens, first - began, ended - began)
