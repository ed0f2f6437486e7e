# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Lists and numbers as the command line has them; every refusal names the option."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import BenchUsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    _T = TypeVar("_T")

# Powers of two.
_UNITS = {"k": 10, "m": 20, "g": 30}


def words_of(flag: str, text: str) -> list[str]:
    """What stands between the commas."""
    words = [word.strip() for word in text.split(",")] if text else []
    if "" in words:
        raise BenchUsageError(f"{flag} {text}: an element of the list is empty")
    return words


def pair_of(flag: str, text: str) -> tuple[str, str]:
    """The owner's and the reader's."""
    owner, colon, reader = text.partition(":")
    if colon and not reader:
        raise BenchUsageError(f"{flag} {text}: expected one value for both sides, or OWNER:READER")
    return owner, reader or owner


def numbers_of(flag: str, text: str) -> list[int]:
    """Whole numbers from 1."""
    return [number_of(flag, word) for word in words_of(flag, text)]


def number_of(flag: str, word: str) -> int:
    """A whole number; 4k is 4096, and so on."""
    shift = _UNITS.get(word[-1:].lower(), 0)
    value = parsed(flag, word[:-1] if shift else word, int) << shift
    if value < 1:
        raise BenchUsageError(f"{flag} {word}: expected at least 1")
    return value


def parsed(flag: str, word: str, kind: Callable[[str], _T]) -> _T:
    """A number of that kind."""
    try:
        return kind(word)
    except ValueError as error:
        raise BenchUsageError(f"{flag} {word}: expected a number") from error
