# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Rows of matrices by id: stores keep them in shared memory, readers gather them from several stores at once.

A store is a process that keeps some rows of one or more matrices (features, embeddings) and offers them; the ids of its
rows are a range, with any step. A reader gathers any ids of any of its stores into a slot of its own memory, one
one-sided read per store, while it does something else.

    # in each of two stores
    store = RowStore({"features": features[:half]}, ids=range(half))
    send(store.offer().to_bytes())

    # in a trainer
    reader = RowReader(offers, max_rows=100_000, slots=3)
    with reader.gather(ids).wait() as slot:      # or: await reader.gather(ids)
        use(slot["features"])                    # (len(ids), width), in the order of ids; duplicates are fine

Prefetch: a reader has `slots` of them. Start the next gathers before the present one is used, and release each when it
is done with.

Results go back the same way, the roles reversed: who has them keeps them in a store of its own, of slots, and tells the
other one which by `reader.peers[i].notify`; that one gathers them, and notifies when the slot is free again. There is
no other push.

Rows that change. An offer is good until its lease ends; a store's leases are pinned, so no clock ends them. With
`generations=2` a store keeps everything twice: it writes the half that nobody reads, and `swap` offers that one and
revokes the other. A gather that overlaps the swap fails with LeaseExpired, so no row is ever half old and half new.
Readers get the new offer by whatever way the old one came, or its `renewal` in a note, and `replace` it. With
`generations=1` there is one copy. **Writing it while it is offered can tear rows: a reader may get a row of which a
part is from before the write and a part from after, and no error says so.** Who trains as Hogwild does may want just
that. Who does not calls `withdraw` first, writes, and offers anew by `swap`: gathers in between fail with LeaseExpired.
"""

from __future__ import annotations

from .offer import Matrix, RowOffer
from .reader import RowReader
from .slot import RowSlot
from .store import RowStore

__all__ = ["Matrix", "RowOffer", "RowReader", "RowSlot", "RowStore"]
