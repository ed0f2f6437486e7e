# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Pushes that could not be pulled for a reason that may pass, and those of the same trainers behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .write_back import Push


class Backlog:
    """Each trainer's pushes in their order, asked for again after a pause and for a while; so many in all."""

    def __init__(self, patience: float, pause: float, most: int) -> None:
        """`patience` and `pause`: seconds, from a trainer's first failure on and between two tries."""
        self._patience, self._pause, self._most = patience, pause, most
        self._pushes: dict[int, list[Push]] = {}
        self._since: dict[int, float] = {}
        self._again: dict[int, float] = {}

    def __len__(self) -> int:
        """Pushes that wait."""
        return sum(map(len, self._pushes.values()))

    def holds(self, trainer: int) -> bool:
        """Whether one of its pushes waits, so that all later ones have to."""
        return trainer in self._pushes

    def knows(self, trainer: int) -> bool:
        """Whether one of its pushes was put here, and none was pulled since."""
        return trainer in self._since

    def put(self, push: Push, now: float) -> bool:
        """Keep one, behind those of its trainer; False: it has been asked for long enough, or there is no room."""
        since = self._since.setdefault(push.trainer, now)
        if now - since > self._patience or len(self) >= self._most:
            return False
        self._pushes.setdefault(push.trainer, []).append(push)
        self._again[push.trainer] = now + self._pause
        return True

    def take_due(self, now: float) -> list[Push]:
        """What is to be asked for again; it waits no more, unless it is put back."""
        due = [trainer for trainer in self._pushes if self._again[trainer] <= now]
        return [push for trainer in due for push in self._pushes.pop(trainer)]

    def clear(self, trainer: int) -> None:
        """One of its pushes was pulled, or none will be any more: forget what waits, and since when."""
        for known in (self._pushes, self._since, self._again):
            known.pop(trainer, None)
