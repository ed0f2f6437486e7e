# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What a mutant is, and how it is put into a source file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class StaleMutantError(Exception):
    """The source has changed: a mutant's text is not there once."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A fault of a few characters.

    Attributes:
        name: What the fault is.
        file: Where.
        edits: Texts, each of which is there exactly once, and what takes their place.
        cpp: A part of the names of the C++ tests that must fail; empty: none.
        fuzz: The targets of tests/cpp/fuzz whose corpus must fail; none: empty.
        pytest: The Python tests that must fail, as pytest takes them; of a C++ file they run on its extension.
    """

    name: str
    file: str
    edits: tuple[tuple[str, str], ...]
    cpp: str = ""
    fuzz: tuple[str, ...] = ()
    pytest: tuple[str, ...] = ()

    @property
    def native(self) -> bool:
        """Whether something has to be built."""
        return self.file.startswith("csrc/")

    def applied(self, tree: Path) -> str:
        """The file's text with the fault in it.

        Raises:
            StaleMutantError: Naming the text that is not there once.
        """
        text = (tree / self.file).read_text()
        for before, after in self.edits:
            if (times := text.count(before)) != 1:
                raise StaleMutantError(f"{self.name}: {self.file} has this {times} times, expected once:\n{before}")
            text = text.replace(before, after)
        return text
