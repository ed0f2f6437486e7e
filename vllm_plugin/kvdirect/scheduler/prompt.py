# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Which prompt a request has: all that vLLM tells cached blocks apart by, read from its own request."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING

from vllm.v1.utils import tensor_data

from kvdirect.transfer_params import prompt_digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm.v1.request import Request

# What vLLM calls a multimodal item that it has not hashed, because its own caches are off: a number that every engine
# counts anew. Equal ones say nothing of what is in them, so they are never taken for the same.
_COUNTED = re.compile(r"(?:.*:)?renderer\d+-mm-\d+-.*", re.DOTALL)


def request_digest(request: Request, tokens: int, epoch: int) -> str:
    """The digest of a request's first `tokens` positions and of whatever else their cache depends on.

    The same for two engines, so nothing is in it that each numbers by itself, such as an adapter's id.
    """
    return prompt_digest(request.all_token_ids[:tokens], epoch, _conditions(request, tokens))


def _conditions(request: Request, tokens: int) -> Iterator[tuple[str | int | bytes | memoryview, ...]]:
    """What vLLM hashes blocks by beside token ids (`generate_block_hash_extra_keys`): a kind, and its values."""
    if (adapter := request.lora_request) is not None:
        # The path too: while an adapter is replaced, one name means two of them.
        yield "lora", adapter.lora_name, adapter.lora_path
    for item in request.mm_features:
        if item.mm_position.offset < tokens:
            known = _COUNTED.fullmatch(item.identifier) is None
            yield "mm", item.identifier if known else secrets.token_hex(16), item.mm_position.offset
    if request.cache_salt:
        yield "cache_salt", request.cache_salt
    if (embeds := request.prompt_embeds) is not None:
        yield "prompt_embeds", str(embeds.dtype), embeds.shape[-1], tensor_data(embeds[:tokens])
