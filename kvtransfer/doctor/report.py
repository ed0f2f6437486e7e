# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the doctor says: one record a check, and all of them together as text or JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

# Raised when a name, a status, or the meaning of a fact changes; new checks and new facts do not raise it.
SCHEMA_VERSION = 1

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one check.

    Attributes:
        name: Which check; stable.
        status: "ok", "warning" (works, slower or less safe than it could) or "problem" (KVDirect cannot be used).
        summary: One line: what was found.
        remedy: What to do about it; empty if and only if the status is "ok".
        facts: What the summary was made from, as plain JSON values; the same keys on every machine.
    """

    name: str
    status: Status
    summary: str
    remedy: str = ""
    facts: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Keep the promise about remedies: a complaint without a way out is a bug here."""
        if (self.status == "ok") != (not self.remedy):
            raise ValueError(f"check {self.name}: status {self.status} with remedy {self.remedy!r}")


@dataclass(frozen=True, slots=True)
class Report:
    """All checks, in the order in which they are told."""

    checks: tuple[Check, ...]

    @property
    def usable(self) -> bool:
        """No check found a problem."""
        return all(check.status != "problem" for check in self.checks)

    @property
    def verdict(self) -> str:
        """The last line: usable or not, and why not."""
        problems = [check.name for check in self.checks if check.status == "problem"]
        warnings = [check.name for check in self.checks if check.status == "warning"]
        noted = f"; warnings: {', '.join(warnings)}" if warnings else ""
        if problems:
            return f"not usable: problems: {', '.join(problems)}{noted}"
        lanes = next((check.facts.get("working") for check in self.checks if check.name == "lanes"), None)
        works = f": lanes {', '.join(map(str, lanes))}" if isinstance(lanes, list) and lanes else ""
        return f"usable{works}{noted}"

    def as_json(self) -> dict[str, object]:
        """Plain values for `json.dumps`; docs/doctor.md describes them."""
        return {
            "schema_version": SCHEMA_VERSION,
            "usable": self.usable,
            "verdict": self.verdict,
            "checks": [asdict(check) for check in self.checks],
        }

    def as_text(self) -> str:
        """Lines for people; the last one is the verdict."""
        width = max((len(check.name) for check in self.checks), default=0)
        lines = []
        for check in self.checks:
            lines.append(f"{check.status:<7}  {check.name:<{width}}  {check.summary}")
            if check.remedy:
                lines.append(f"{'':<7}  {'':<{width}}  -> {check.remedy}")
        return "\n".join([*lines, self.verdict])
