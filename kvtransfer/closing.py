# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The end of an engine, and what becomes of its memory."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from typing import TYPE_CHECKING

from .errors import KVTransferError

if TYPE_CHECKING:
    from ._native import core

logger = logging.getLogger("kvtransfer")


class StillMapped:
    """Memory of closed engines that readers have mapped: what they read would be undefined if it were freed."""

    def __init__(self) -> None:
        """None yet."""
        self._parents: list[tuple[core.Engine, list[object]]] = []
        self._lock = threading.Lock()
        self._held: list[tuple[core.Engine, list[object]]] = []
        os.register_at_fork(after_in_child=self._leave_to_parent)

    def hold(self, native: core.Engine, memory: list[object]) -> None:
        """Keep them until `drop_free` finds that no reader of the engine has anything mapped."""
        with self._lock:
            self._held.append((native, memory))

    def drop_free(self) -> None:
        """Let go of what no reader has mapped any more."""
        kept: list[tuple[core.Engine, list[object]]] = []
        free: list[tuple[core.Engine, list[object]]] = []
        with self._lock:
            for one in self._held:
                (kept if one[0].readers_mapping() else free).append(one)
            self._held = kept
        free.clear()  # outside the lock: it may wait for the GPU

    def _leave_to_parent(self) -> None:
        """What was held at a fork is the parent's, and stays as it is."""
        self._lock = threading.Lock()
        self._parents, self._held = self._held, []


still_mapped = StillMapped()


def shut(name: str, native: core.Engine, table: core.LeaseTable, keepalive: list[object], pid: int) -> None:
    """End an engine, and let go of its memory unless readers have it mapped; nothing in a fork of process `pid`."""
    if pid != os.getpid():
        return  # a fork: the threads are the parent's
    table.revoke_all()
    with contextlib.suppress(KVTransferError):
        native.close()
    still_mapped.drop_free()
    if readers := native.readers_mapping():
        logger.warning(
            "engine %s: %d readers still have its GPU memory mapped, stopped or stuck; it is kept until they let it go",
            name,
            readers,
        )
        still_mapped.hold(native, keepalive)
    else:
        keepalive.clear()
