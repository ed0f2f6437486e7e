# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What a router shares with the other processes that serve beside it, or has for itself where it is the only one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .api_keys import KeyFile
from .counts import CountTable
from .fleet import Fleet

if TYPE_CHECKING:
    from .api_keys import ApiKeys
    from .config import ProxyConfig


class Crew:
    """All that belongs to every process.

    Attributes:
        counts: The numbers.
        fleet: The instances.
        keys: Those of clients; None: instances judge them.
    """

    def __init__(self, counts: CountTable, fleet: Fleet, keys: ApiKeys | None) -> None:
        self.counts = counts
        self.fleet = fleet
        self.keys = keys

    @classmethod
    def alone(cls, config: ProxyConfig) -> Crew:
        """One process."""
        counts = CountTable(config)
        keys = None if config.api_key_file is None else KeyFile(config.api_key_file, counts)
        fleet = Fleet(config, counts)
        fleet.begin()
        return cls(counts, fleet, keys)

    def forget_models(self) -> None:
        """What the others have learned of the models may have changed."""

    def make_room(self, worker: int, what: str) -> None:
        """Ask a worker to end its oldest `body` that is still arriving, or its `connection` that has waited longest."""
