# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What one engine alone says to the churn's requests, and whether an answer is the same.

Ranks of another number add up in another order. Log-probabilities of a tiny float32 model are off by 8e-5 then, without
any connector (one engine of one rank, and one of two), and of thousands of tokens one or two are nearer to the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from churn_client import client
from engines import completion_body

if TYPE_CHECKING:
    from churn_mix import Job
    from engines import Engine

# Where the two best tokens are as near as that, other ranks may choose the other one.
TIE = 3e-4


@dataclass(frozen=True, slots=True)
class Reference:
    """The tokens that are right, and at each of them the next best one and how far behind it is."""

    tokens: list[int]
    seconds: list[tuple[int, float]]

    def judge(self, tokens: list[int], *, ties: bool) -> str:
        """ "equal", "unequal", or with `ties`, "tie": as good where it begins to differ."""
        if tokens == self.tokens:
            return "equal"
        if not ties or len(tokens) != len(self.tokens):
            return "unequal"
        first = next(i for i, (got, right) in enumerate(zip(tokens, self.tokens, strict=True)) if got != right)
        second, behind = self.seconds[first]
        return "tie" if tokens[first] == second and behind <= TIE else "unequal"


async def reference(engine: Engine, job: Job) -> Reference:
    body = completion_body(job.prompt, job.max_tokens, logprobs=2, return_tokens_as_token_ids=True)
    async with client(engine, "reference-" + job.name) as http:
        answer = (await http.post("/v1/completions", json=body)).raise_for_status().json()
    [choice] = answer["choices"]
    tokens: list[int] = choice["token_ids"]
    steps = zip(tokens, choice["logprobs"]["top_logprobs"], strict=True)
    return Reference(tokens, [_second(token, best) for token, best in steps])


def _second(token: int, best: dict[str, float]) -> tuple[int, float]:
    """Of the best two, by "token_id:<number>"."""
    by_token = {int(name.removeprefix("token_id:")): logprob for name, logprob in best.items()}
    chosen = by_token.pop(token)
    [(second, logprob)] = by_token.items()
    return second, chosen - logprob
