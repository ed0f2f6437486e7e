# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Waits of the main thread that a signal may end (Ctrl-C)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# How long one wait may last: signals are looked at in between.
SLICE = 0.25


def interruptible(call: Callable[[], T]) -> T:
    """Make a native call that may wait for long, and return what it returns.

    Only the main thread is interrupted by signals, and only between two calls of its own: there the call is made by
    another thread, which goes on after a KeyboardInterrupt until the call's own end; what it returns is dropped.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    running = _Running(call)
    # A daemon: the interpreter's end does not wait for it.
    threading.Thread(target=running, name="kvtransfer-wait", daemon=True).start()
    while not running.ended.wait(SLICE):
        pass
    return running.result()


class _Running(Generic[T]):
    """A call in another thread; whoever takes its result has the only reference to it."""

    def __init__(self, call: Callable[[], T]) -> None:
        self.ended = threading.Event()
        self._call: Callable[[], T] | None = call
        self._results: list[T] = []
        self._error: BaseException | None = None

    def __call__(self) -> None:
        call, self._call = self._call, None
        try:
            if call is not None:
                self._results.append(call())
        except BaseException as error:  # noqa: BLE001  (it is raised where the call was made)
            self._error = error
        finally:
            self.ended.set()

    def result(self) -> T:
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its trace refers to this frame
        return self._results.pop()
