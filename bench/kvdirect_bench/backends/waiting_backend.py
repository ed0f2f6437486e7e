# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""kvtransfer again, for pulls that wait: the owner grants first and raises the watermark when it is told to."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import kvtransfer as kt

from .kvdirect_backend import TERM, KVDirectOwner, KVDirectReader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .base import Facts

_SEED = 0
# Ending thousands of cancelled pulls takes a moment.
_END_SECONDS = 60.0


class WaitingOwner(KVDirectOwner):
    """Leases the same blocks over and over."""

    def commands(self) -> Mapping[str, Callable[..., Any]]:
        """A lease that is final or is not, the watermark, the lease's end, and the processor's time."""
        return {
            "grant": self._grant,
            "raise": self._raise_watermark,
            "revoke": self._revoke,
            "spent": time.process_time,
        }

    def _grant(self, *, final: bool) -> Facts:
        remote, _ = self.workload.block_tables(_SEED)
        self._granted = self._engine.grant([remote], watermark=self.workload.positions if final else 0, term=TERM)
        return {"slot": self._granted.slot, "epoch": self._granted.epoch}

    def _revoke(self) -> None:
        self._engine.revoke_all()

    def _raise_watermark(self) -> float:
        """Of the last lease; when, by a clock that all processes share."""
        at = time.perf_counter()
        self._engine.raise_watermark(self._granted, self.workload.positions)
        return at


class WaitingReader(KVDirectReader):
    """Asks for pulls and does not wait for them."""

    def ask(self, lease: Mapping[str, int], timeout: float) -> kt.Pull:
        """One pull of the leased blocks."""
        remote, local = self.workload.block_tables(_SEED)
        name = kt.LeaseRef(lease["slot"], lease["epoch"])
        return self._peer.pull(name, [remote], [local], stop=self.workload.positions, timeout=timeout)

    @staticmethod
    def end(pulls: Sequence[kt.Pull]) -> None:
        """Cancel them and see them end."""
        for pull in pulls:
            pull.cancel()
        for pull in pulls:
            with contextlib.suppress(kt.KVTransferError):
                pull.wait(_END_SECONDS)


OWNER = WaitingOwner
READER = WaitingReader
