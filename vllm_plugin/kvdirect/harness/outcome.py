# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What became of the demo's prompts: its table, and what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .cache_geometry import AccountingError
from .processes import say

if TYPE_CHECKING:
    from .accounting import PromptTokens
    from .cache_geometry import CacheGeometry
    from .completions import Completion, Prompt

COLUMNS = ("prompt", "tokens", "hits", "pulled", "blocks", "runs", "lane", "pull ms", "TTFT ms", "identical")
_WIDTHS = (22, 7, 6, 11, 7, 5, 8, 8, 8, 9)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One prompt's completion through the pull, the reference, and the reader's own record of the pull."""

    prompt: Prompt
    reference: Completion
    pulled: Completion
    record: dict[str, object]

    @property
    def identical(self) -> bool:
        """Token by token."""
        return self.reference.tokens == self.pulled.tokens

    def number(self, key: str) -> float:
        """A numeric field of the pull's record."""
        value = self.record[key]
        if not isinstance(value, int | float):
            raise AccountingError(f"the pull log has {key}={value!r} for {self.prompt.name!r}, expected a number")
        return value

    def cells(self, tokens: PromptTokens | None) -> tuple[str, ...]:
        """Its row's cells; with `tokens` where the prompt was alone."""
        return (
            self.prompt.name,
            str(self.pulled.prompt_tokens),
            str(tokens.local_hit) if tokens else "-",
            *(str(int(self.number(key))) for key in ("bytes", "blocks", "runs")),
            str(self.record["lane"]),
            f"{self.number('seconds') * 1e3:.2f}",
            f"{self.pulled.ttft * 1e3:.1f}",
            "yes" if self.identical else "NO",
        )


def check(outcomes: list[Outcome], tokens: PromptTokens, geometry: CacheGeometry) -> list[str]:
    """Complaints about a batch: bytes that differ from the geometry's, or prompt tokens computed again."""
    names = " and ".join(repr(outcome.prompt.name) for outcome in outcomes)
    hits = [int(outcome.number("start")) for outcome in outcomes]
    expected = sum(
        geometry.expected_bytes(outcome.pulled.prompt_tokens, there)
        for outcome, there in zip(outcomes, hits, strict=True)
    )
    moved = sum(int(outcome.number("bytes")) for outcome in outcomes)
    complaints = []
    if sum(hits) != tokens.local_hit:
        complaints.append(f"{names}: pulls began behind {sum(hits)} tokens, but decode had {tokens.local_hit} of them")
    if moved != expected:
        complaints.append(f"{names}: {moved} bytes pulled, but the cache's geometry says {expected}")
    if tokens.computed != len(outcomes):
        complaints.append(
            f"{names}: decode computed {tokens.computed} prompt tokens, expected {len(outcomes)} (the last of each)"
        )
    return complaints


def row(cells: tuple[str, ...]) -> str:
    """One line of the table."""
    first, *rest = zip(cells, _WIDTHS, strict=True)
    return f"  {first[0]:<{first[1]}}" + "".join(f"{cell:>{width + 1}}" for cell, width in rest)


def verdict(outcomes: list[Outcome], complaints: list[str]) -> int:
    """Print what was wrong and how many were right; the exit status."""
    for complaint in complaints:
        say(f"WRONG: {complaint}")
    same = sum(outcome.identical for outcome in outcomes)
    lanes = "+".join(sorted({str(outcome.record["lane"]) for outcome in outcomes}))
    mebibytes = sum(outcome.number("bytes") for outcome in outcomes) / (1 << 20)
    print(f"demo: {same} of {len(outcomes)} completions identical, {mebibytes:.1f} MiB pulled over {lanes}", flush=True)
    return 0 if same == len(outcomes) and not complaints else 1
