# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What one component of a layer holds, and which of the model's heads: the rows that are cut between ranks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Heads:
    """The heads (or channels) of a part that one rank has: local ones, their stride in bytes, and which they are.

    Attributes:
        first: The model's index of the first one.
        replicated: Other ranks have the same.
        only_like: Follows the component's name where it means the same only between engines of as many ranks.
    """

    count: int
    stride: int
    first: int = 0
    replicated: bool = False
    only_like: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """One component of a layer, seen from a block: `offset` and strides in bytes.

    A cell covers `tokens_per_cell` tokens whose bytes cannot be told apart.
    """

    name: str
    dtype: str
    item_bytes: int
    offset: int
    heads: Heads
    size: int
    element_stride: int
    tokens: int = 1
    token_stride: int = 0
    tokens_per_cell: int = 1
