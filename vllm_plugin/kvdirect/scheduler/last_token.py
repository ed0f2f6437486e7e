# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Prefills that leave out their prompt's last token, for caches that forget.

A reader computes the prompt's last token again, at position N - 1, and so needs what a request keeps at N - 1
positions. One that was prefilled to N has lost it: a window's block may be freed, the chunk be over, the state be one
further.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from vllm.v1.request import Request

# For each connector of an engine: there may be several, and a token is left out once.
_SHORTENED: WeakSet[Request] = WeakSet()


def leave_out_last_token(request: Request) -> None:
    """Shorten a new request, in the scheduler only: the client's answer still counts the whole prompt.

    What is sampled after it stands for nothing, and so nothing is sampled after that. Requests that compute their
    whole prompt for its own sake (its logprobs), or whose prompt goes on later, stay as they are.
    """
    # What its parameters say now, as vLLM's own connectors ask: the request's copy is of when it was made.
    asked = request.sampling_params is None or request.get_skip_reading_prefix_cache()
    whole = asked or getattr(request, "resumable", False)
    if whole or request in _SHORTENED or request.num_prompt_tokens < 2:
        return
    # Copies: the lists are the client side's too where both are in one process.
    for name in ("prompt_token_ids", "prompt_embeds", "prompt_is_token_ids"):
        if (values := getattr(request, name, None)) is not None:
            setattr(request, name, values[:-1])
    del request._all_token_ids[-1:]  # noqa: SLF001  (what all_token_ids shows)
    request.num_prompt_tokens -= 1
    request.max_tokens = 1
    if request.block_hashes:  # the last one may have been of the last token
        del request.block_hashes[-1:]
        request.update_block_hashes()
    _SHORTENED.add(request)


def is_shortened(request: Request) -> bool:
    """Whether its prompt's last token was left out."""
    return request in _SHORTENED
