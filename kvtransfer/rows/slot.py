# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""One gather, and where its rows land."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from kvtransfer.errors import InvalidState

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from types import TracebackType

    import numpy.typing as npt

    from kvtransfer.pull import Pull, PullResult


class RowSlot:
    """A gather that is under way, and its rows once they are there; made by `RowReader.gather`.

    Awaitable; both `await` and `wait` give the slot itself. A context manager that releases it. A slot that nobody has
    any more is released when no array of it is left either.
    """

    def __init__(
        self, count: int, pull: Pull, views: Mapping[str, npt.NDArray[Any]], release: Callable[[], None]
    ) -> None:
        """Of `count` rows that `pull` brings to `views`; `release` gives the memory back, once."""
        self._count = count
        self._pull = pull
        self._views = views
        self._lock = threading.Lock()
        self._release: Callable[[], None] | None = release

    @property
    def pull(self) -> Pull:
        """The read of all stores together."""
        return self._pull

    @property
    def done(self) -> bool:
        """The outcome is known."""
        return self._pull.done

    def result(self) -> PullResult:
        """What was moved; raises InvalidState while it is under way, or why it failed."""
        return self._pull.result()

    def wait(self, timeout: float | None = None) -> Self:
        """Wait until all rows are there, without the GIL.

        Args:
            timeout: Seconds; None waits as long as the gather's own timeout allows.

        Raises:
            WaitTimeout: `timeout` passed; the gather goes on.
            LeaseExpired: A store has swapped or withdrawn its rows: `replace` its offer, and gather again.
            PeerLost: A store is gone: `replace` it, and gather again.
            PullError: It failed otherwise.
        """
        self._pull.wait(timeout)
        return self

    def __await__(self) -> Generator[object, None, Self]:
        """Wait in an asyncio loop. Cancelling the awaiting task leaves the gather under way."""
        yield from self._pull.__await__()
        return self

    def __len__(self) -> int:
        """How many rows."""
        return self._count

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """A matrix's rows in the order of the ids, (rows, width), of the reader's memory: good until `release`.

        Raises:
            KeyError: It was not read.
            InvalidState: The gather is under way, or the slot was released.
            PullError: The gather failed.
        """
        self._pull.result()
        view = self._views[name]
        if self._release is None:
            raise InvalidState("the slot was released", operation="gather")
        return np.asarray(_Rows(self, view)) if view.size else view

    def cancel(self) -> None:
        """Give the gather up; no-op when it is done. The slot is still to be released."""
        self._pull.cancel()

    def release(self) -> None:
        """Give the slot back to the reader; arrays of it will hold other rows. Idempotent.

        What is under way is cancelled, and the slot's memory not used again before nothing can land in it.
        """
        with self._lock:
            release, self._release = self._release, None
        if release is not None:
            release()

    def __enter__(self) -> Self:
        """The slot itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release it."""
        self.release()

    def __del__(self) -> None:
        """Release it."""
        if getattr(self, "_release", None) is not None:
            self.release()


class _Rows:
    """What an array of a slot is made of: it keeps the slot, which so is not given to another gather."""

    def __init__(self, slot: RowSlot, view: npt.NDArray[Any]) -> None:
        self._slot = slot
        self._view = view

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self._view.__array_interface__
