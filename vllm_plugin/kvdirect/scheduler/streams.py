# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Requests that read along with their prefill: what is ordered of a prompt's cache, and when.

The owner says of a prefill that runs which blocks it has so far. Each piece is ordered as soon as its blocks are known,
which is before they are computed: the pull waits for the watermark by itself. Caches that forget are read with the last
piece, when the prefill has ended and says what it kept. A prefill that was preempted begins anew under another lease,
and so does what is ordered; the worker knows what it has already.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kvdirect.cache.block_tables import common_stop
from kvdirect.errors import WireError
from kvdirect.metadata import PullOrder
from kvdirect.transfer_params import RemoteLease, parse_remote_prefill

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvdirect.cache.groups import Group
    from kvdirect.transfer_params import RemotePrefill

# Pieces of a prompt at most: small ones cost more than they gain.
_PIECES = 16


@dataclass(slots=True)
class Stream:
    """One request, from its blocks to the order of its last piece, and until its prefill has ended.

    Attributes:
        where: Host and port of the owner.
        claim: What it is asked for.
        lease: Under which the prefill runs.
    """

    where: tuple[str, int]
    claim: str
    lease: RemoteLease
    _request_id: str
    _groups: tuple[Group, ...]
    _same_prompt: Callable[[RemotePrefill], bool]
    _local: tuple[list[int], ...]
    _begin: int  # the first position that is wanted
    _stop: int  # behind the last one, a whole block
    _final: int  # positions that are final at the end
    _ordered: int = 0  # up to here
    _again: bool = False
    _whole: bool = False  # all of it is ordered

    @property
    def waits(self) -> bool:
        """Whether there is more to order once the owner has said more."""
        return not self._whole

    def first(self, remote: RemotePrefill) -> PullOrder:
        """The first piece, which may be empty: the worker is to know of the request."""
        self._ordered = self._begin
        return self._piece(remote) or self._order(remote, self._begin)

    def next(self, found: dict[str, Any] | str | None) -> PullOrder | None:
        """The next piece by what the owner says now, if there is one."""
        if found is None:
            return None
        if isinstance(found, str):
            return self._nothing("" if self._whole else found)
        remote = self._understood(found)
        if isinstance(remote, str):
            return self._nothing(remote)
        if remote.lease != self.lease:
            return self._anew(remote)
        if self._whole:
            return self._nothing("") if remote.so_far is None else None
        return self._piece(remote)

    def _understood(self, found: dict[str, Any]) -> RemotePrefill | str:
        """A ticket, or what is wrong with it."""
        try:
            remote = parse_remote_prefill(found)
        except (WireError, ValueError, RecursionError) as error:
            return f"its owner's ticket makes no sense: {error}"
        if remote.num_tokens < self._final:
            return f"{remote.num_tokens} positions were prefilled, {self._final} were promised"
        return remote

    def _anew(self, remote: RemotePrefill) -> PullOrder:
        if remote.lease.incarnation != self.lease.incarnation or not self._same_prompt(remote):
            return self._nothing("its prefill began anew, and is of another engine or another prompt")
        self.lease, self._whole = remote.lease, False
        return replace(self.first(remote), lease=(remote.lease.slot, remote.lease.epoch))

    def _piece(self, remote: RemotePrefill) -> PullOrder | None:
        if self._is_last(remote):
            return self._order(remote, self._stop)
        spans = [group.span for group in self._groups if not group.forgets]
        if not spans:
            return None
        # Whole blocks only: the rest of one comes with the next piece.
        stop = common_stop(spans, min(remote.so_far or 0, self._final) + 1) - common_stop(spans, 1)
        if stop - self._ordered < max(1, (self._stop - self._begin) // _PIECES):
            return None
        return self._order(remote, stop)

    def _is_last(self, remote: RemotePrefill) -> bool:
        """Whether all blocks are known."""
        if remote.so_far is None:
            return True
        return remote.so_far >= self._final and not any(group.forgets for group in self._groups)

    def _order(self, remote: RemotePrefill, stop: int) -> PullOrder:
        start, self._ordered = self._ordered, stop
        again, self._again = self._again, True
        self._whole = self._is_last(remote)
        return PullOrder(
            request_id=self._request_id,
            remote=remote.blocks,
            local=self._local,
            start=start,
            stop=stop,
            watermark=self._final if self._whole else stop,
            begin=self._begin,
            chosen=tuple(not group.forgets for group in self._groups),
            again=again,
            last=self._whole,
            more=remote.so_far is not None,
        )

    def _nothing(self, lost: str) -> PullOrder:
        """The end: all is ordered, and its prefill has ended or nobody knows of it any more; or why that is not so."""
        return PullOrder(
            request_id=self._request_id,
            remote=((),) * len(self._groups),
            local=self._local,
            start=self._ordered,
            stop=self._ordered,
            watermark=self._final if self._whole else self._ordered,
            begin=self._begin,
            again=self._again,
            lost=lost,
        )
