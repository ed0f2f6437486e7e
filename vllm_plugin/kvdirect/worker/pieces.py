# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The pulls that together bring what one request wants: usually one, several where it reads along with its prefill."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kvtransfer import PullResult
from kvtransfer.errors import KVTransferError, LeaseExpired, PullCancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kvdirect.metadata import PullOrder
    from kvtransfer import Pull

NOTHING = PullResult(bytes=0, runs=0, lane="", seconds=0.0, post_seconds=0.0)


@dataclass(eq=False, slots=True)
class Pieces:
    """What was ordered for a request so far, and how far it is.

    A lease that ends while more may follow is not the end: the prefill may have begun anew, under another lease. What
    was accepted before stays.

    Attributes:
        whole: All of it as one order.
        count: Pulls so far.
    """

    whole: PullOrder
    count: int = 0
    _due: list[PullOrder] = field(default_factory=list)
    _pulls: list[tuple[PullOrder, Pull]] = field(default_factory=list)
    _left: list[Pull] = field(default_factory=list)  # under leases that have ended; they may land still
    _kept: list[PullResult] = field(default_factory=list)  # of pulls under leases that have ended
    _kept_to: int = 0  # positions below it are here
    _error: KVTransferError | None = None
    _ended: LeaseExpired | None = None  # while more may follow

    def order(self, piece: PullOrder) -> None:
        """Add a piece, the first one too."""
        self.whole = replace(piece, start=piece.begin)
        if piece.lease is not None:
            self._begin_anew()
        if piece.lost:
            self.fail(LeaseExpired(piece.lost, operation="pull"))
        elif self._ended is not None and not piece.more:
            self.fail(self._ended)
        else:
            self._due.extend(_parts(piece, self._kept_to))

    def begin(self, pull: Callable[[PullOrder], Pull]) -> None:
        """Start what was ordered and is not under way; raises what `pull` does."""
        if any(_lands(one) for one in self._left):
            return  # in the same places
        self._left.clear()
        while self._due and self._error is None and self._ended is None:
            piece = self._due.pop(0)
            try:
                begun = pull(piece)
            except LeaseExpired as error:
                self._ends(error)
            else:
                self._pulls.append((piece, begun))
                self.count += 1

    @property
    def early(self) -> int:
        """Bytes that were here before the last piece was asked for. Only with a result."""
        return sum(one.bytes for one in [*self._kept, *(one.result() for _, one in self._pulls)][:-1])

    def fail(self, error: KVTransferError) -> None:
        """Give up: what is under way ends soon."""
        if self._error is not None:
            return
        self._error = error
        self._due.clear()
        for _, one in self._pulls:
            one.cancel()

    def cancel(self) -> None:
        """It is not wanted any more."""
        self.fail(PullCancelled("the request was aborted", operation="pull"))

    @property
    def waits(self) -> bool:
        """Whether something is ordered and not begun."""
        return bool(self._due)

    @property
    def lands(self) -> bool:
        """Whether bytes may land still."""
        return any(map(_lands, self._left)) or any(_lands(one) for _, one in self._pulls)

    @property
    def running(self) -> Pull | None:
        """The first one that has not ended."""
        return next((one for _, one in self._pulls if not one.done), None)

    def result(self) -> PullResult | None:
        """What all of it came to, None while it goes on; raises why it failed, once no byte can land any more."""
        for _, one in self._pulls:
            if self._error is None and one.done:
                self._look_at(one)
        if self.lands:
            return None
        if self._error is not None:
            raise self._error
        if self._ended is not None or self._due or not self.whole.last:
            return None
        return _joined([*self._kept, *(one.result() for _, one in self._pulls)])

    def _look_at(self, pull: Pull) -> None:
        try:
            pull.result()
        except LeaseExpired as error:
            self._ends(error)
        except KVTransferError as error:
            self.fail(error)

    def _ends(self, error: LeaseExpired) -> None:
        if self.whole.more:
            self._ended = error
        else:
            self.fail(error)

    def _begin_anew(self) -> None:
        """What is under way may land still; what has landed in order need not be read again."""
        for piece, one in self._pulls:
            in_order = piece.chosen is not None and piece.start <= max(self._kept_to, piece.begin)
            if in_order and one.done and _accepted(one):
                self._kept_to = piece.stop
                self._kept.append(one.result())
            else:
                one.cancel()
                self._left.append(one)
        self._pulls.clear()
        self._due.clear()
        self._ended = None


def _lands(pull: Pull) -> bool:
    return not pull.done or not pull.quiet


def _accepted(pull: Pull) -> bool:
    try:
        pull.result()
    except KVTransferError:
        return False
    return True


def _parts(piece: PullOrder, kept_to: int) -> Iterator[PullOrder]:
    """One pull each; of positions below `kept_to` all is here that is not read with the last piece."""
    piece = replace(piece, start=max(piece.start, kept_to))
    if piece.chosen is None or (piece.start == piece.begin and piece.last):
        if piece.start < piece.stop or not piece.again:
            yield replace(piece, chosen=None)
        return
    if piece.start < piece.stop and any(piece.chosen):
        yield piece
    if piece.last and not all(piece.chosen):
        yield replace(piece, start=piece.begin, chosen=tuple(not one for one in piece.chosen))


def _joined(results: list[PullResult]) -> PullResult:
    """As one; the time is that of the last one, during which nothing else kept the request waiting."""
    if not results:
        return NOTHING
    if len(results) == 1:
        return results[0]
    last = results[-1]
    return PullResult(
        bytes=sum(one.bytes for one in results),
        runs=sum(one.runs for one in results),
        lane=last.lane,
        seconds=last.seconds,
        post_seconds=last.post_seconds,
    )
