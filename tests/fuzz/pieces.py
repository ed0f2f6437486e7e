# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What targets make of an input: numbers and pieces from its beginning, nothing when it has no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

T = TypeVar("T")


class Input:
    """An input that is used up."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def below(self, limit: int) -> int:
        return int.from_bytes(self.take(1 if limit <= 256 else 2), "big") % limit

    def one_of(self, choices: Sequence[T]) -> T:
        return choices[self.below(len(choices))]

    def text(self) -> str:
        return self.take(self.below(40)).decode("latin-1")

    def rest(self) -> bytes:
        return self.take(len(self._data))


def cut(data: bytes, sizes: bytes) -> Iterator[bytes]:
    """The bytes in pieces of these sizes, in turn; in one where none are given."""
    at = turn = 0
    while at < len(data):
        size = 1 + sizes[turn % len(sizes)] if sizes else len(data)
        yield data[at : at + size]
        at += size
        turn += 1
