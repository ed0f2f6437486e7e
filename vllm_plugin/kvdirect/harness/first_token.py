# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A logits processor of vLLM's for engines that pulls are compared with; see FirstToken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm import SamplingParams

FIRST = "first"


class FirstToken(AdapterLogitsProcessor):
    """Makes the first token that a request samples the one that it names (`vllm_xargs={"first": token}`).

    So an engine can be asked for what it says after a prompt's last token without computing that token as part of a
    prompt: vLLM's kernels for prompts and for single tokens round differently, and a reader of a cache computes the
    last token alone.
    """

    def is_argmax_invariant(self) -> bool:
        """It changes the likeliest token."""
        return False

    def new_req_logits_processor(
        self, params: SamplingParams
    ) -> Callable[[list[int], torch.Tensor], torch.Tensor] | None:
        """For requests that name a token."""
        first = (params.extra_args or {}).get(FIRST)
        if first is None:
            return None

        def only(output: list[int], logits: torch.Tensor) -> torch.Tensor:
            if not output:
                chosen = logits[first].clone()
                logits.fill_(-torch.inf)
                logits[first] = chosen
            return logits

        return only
