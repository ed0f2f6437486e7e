# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""How many requests the router works on, and whether that is too many."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Limiter:
    """Counts requests in flight, those that are being refused included: nothing is dropped while one is told so."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_flight = 0

    @property
    def exceeded(self) -> bool:
        """Whether the requests in flight are more than may be."""
        return self.in_flight > self.limit

    @contextmanager
    def held(self) -> Iterator[None]:
        """Count one while the context is open, however it ends."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
