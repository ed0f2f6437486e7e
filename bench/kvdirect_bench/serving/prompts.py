# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The prompts of a run, as token ids: the same for every contender, different in every round and request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvdirect.harness.model import SPECIAL_TOKENS, VOCABULARY

if TYPE_CHECKING:
    from .options import Options

_LOW, _HIGH = len(SPECIAL_TOKENS), VOCABULARY
# The smallest prompt that wakes engines up; a cache block has at most this many tokens.
_WAKE_UP_TOKENS = 130
# Seeds must not be negative, and warm-up rounds are.
_SHARED, _WAKE_UP, _FIRST_ROUND = 0, 1, 1_000_000


def round_prompts(options: Options, number: int) -> list[list[int]]:
    """The prompts of one round; they have the first tokens in common that --shared-prefix asks for, and no others."""
    shared = _tokens(options.shared_prefix, _SHARED)
    rest = options.prompt_tokens - options.shared_prefix
    return [shared + _tokens(rest, _FIRST_ROUND + number, place) for place in range(options.requests)]


def wake_up_prompt(options: Options, number: int) -> list[int]:
    """A prompt that nobody measures."""
    return _tokens(min(options.prompt_tokens, _WAKE_UP_TOKENS), _WAKE_UP, _FIRST_ROUND + number)


def _tokens(count: int, *seed: int) -> list[int]:
    return [int(one) for one in np.random.default_rng(seed).integers(_LOW, _HIGH, count)]
