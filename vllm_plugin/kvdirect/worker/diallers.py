# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A few threads for calls that wait, which the end of the process does not wait for."""

from __future__ import annotations

import threading
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")
_Work = tuple[Future[Any], "Callable[[], Any]"]


class Diallers(Executor):
    """As ThreadPoolExecutor, whose threads Python joins at exit: an owner that stands still would keep the process."""

    def __init__(self, threads: int) -> None:
        """Start none yet; there will be at most so many."""
        self._most = threads
        self._threads: list[threading.Thread] = []
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()

    def submit(self, call: Callable[_Args, _Result], /, *args: _Args.args, **kwargs: _Args.kwargs) -> Future[_Result]:
        """Have one of the threads make a call."""
        future: Future[_Result] = Future()
        self._queue.put((future, lambda: call(*args, **kwargs)))
        if len(self._threads) < self._most:
            thread = threading.Thread(target=self._serve, name=f"kvdirect-dial-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads, each when its call is over."""
        if cancel_futures:
            while (work := self._next()) is not None:
                work[0].cancel()
        for _ in self._threads:
            self._queue.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _next(self) -> _Work | None:
        try:
            return self._queue.get_nowait()
        except Empty:
            return None

    def _serve(self) -> None:
        while (work := self._queue.get()) is not None:
            future, call = work
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001  (it is raised where the result is asked for)
                future.set_exception(error)
            del future, call, work  # a connection that nobody wants any more is not kept until the next one
