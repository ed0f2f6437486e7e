# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A process's rows, offered to readers."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from kvtransfer._native import core
from kvtransfer.admission import descriptor_for
from kvtransfer.engine import Engine
from kvtransfer.errors import ConfigError, InvalidState
from kvtransfer.memory import empty

from .offer import Matrix, RowOffer, checked_matrix

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    import numpy.typing as npt

    from kvtransfer.config import EngineConfig

# Readers need no watermark: a row is final once it is offered.
_ALL_FINAL = 1 << 62


class RowStore:
    """Rows of one or more matrices, in shared memory, under a pinned lease; the module says how they may change.

    Thread-safe but for the arrays themselves. A context manager that closes its engine.
    """

    def __init__(
        self,
        matrices: Mapping[str, npt.NDArray[Any] | tuple[int, int, npt.DTypeLike]],
        *,
        ids: range | None = None,
        generations: int = 1,
        name: str = "",
        config: EngineConfig | None = None,
    ) -> None:
        """Keep these rows and offer them.

        Args:
            matrices: By name an array of numbers, one row per id, which is copied (a 1-D one has rows of one element);
                or rows, width and dtype of one that begins with zeros. All have the same number of rows.
            ids: Ids of the rows; 0 and on unless given.
            generations: 1, or 2 to keep everything twice; see the module.
            name: The engine's, for peers and logs.
            config: Its settings.

        Raises:
            ConfigError: An argument is bad.
            TransportError: The kernel has not so much memory to share.
        """
        if generations not in {1, 2}:
            raise ConfigError(f"generations={generations}: expected 1 or 2", operation="RowStore")
        arrays = {one: _described(one, given) for one, given in matrices.items()}
        counts = {shape[0] for shape, _, _ in arrays.values()}
        if len(counts) != 1:
            raise ConfigError(
                f"matrices have {', '.join(map(str, sorted(counts))) or 'no'} rows, expected one number of them",
                operation="RowStore",
            )
        self._rows = counts.pop()
        self._ids = range(self._rows) if ids is None else ids
        if len(self._ids) != self._rows or self._ids.start < 0 or self._ids.step < 1:
            raise ConfigError(
                f"ids={self._ids}: expected an ascending range of {self._rows}, one id for each row",
                operation="RowStore",
            )
        self._generations = generations
        self._lock = threading.Lock()
        self._half = 0
        self._engine = Engine(config, name=name)
        self._memory: dict[str, npt.NDArray[Any]] = {}
        components = []
        for one, (shape, matrix, values) in arrays.items():
            memory = empty((generations * shape[0], matrix.width), matrix.dtype)
            if values is not None:
                memory[: self._rows] = values.reshape(shape)
            self._memory[one] = memory
            components.append(self._engine.register_tensor(one, memory, ("block", "element")))
        self._matrices = tuple(matrix for _, matrix, _ in arrays.values())
        self._engine.publish(core.TensorMap(components))
        self._lease: core.LeaseRef | None = self._grant(0)

    @property
    def engine(self) -> Engine:
        """What serves the rows, for counters and notes; the ends of its leases are the store's to take."""
        return self._engine

    @property
    def ids(self) -> range:
        """Ids of the rows, in order."""
        return self._ids

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """What a row has."""
        return self._matrices

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """A matrix as readers have it now, (rows, width), not writable; KeyError if there is none of this name."""
        view = self._rows_of(name, self._half)
        view.flags.writeable = False
        return view

    def writable(self, name: str) -> npt.NDArray[Any]:
        """What the next `swap` offers of a matrix, (rows, width).

        With two generations it is the half that nobody reads, and has the rows of the generation before this one. With
        one it is what readers have: call `withdraw` first, or let them read rows of two writes.

        Raises KeyError if there is no matrix of this name.
        """
        return self._rows_of(name, self._next_half())

    def withdraw(self) -> None:
        """Revoke what is offered: gathers that have not ended fail, and the rows may be written."""
        with self._lock:
            self._revoke()

    def swap(self) -> RowOffer:
        """Offer what `writable` gives, and revoke what was offered before; the new offer.

        All matrices change at once. When it returns, the rows of the old generation may be written.
        """
        with self._lock:
            half = self._next_half()
            lease = self._grant(half)
            self._revoke()
            self._half, self._lease = half, lease
        return self.offer()

    def offer(self, *, reader: str | None = None, valid_for: float = 3600.0) -> RowOffer:
        """What a reader needs to read the rows as they are now.

        Args:
            reader: Make it this reader's, who may connect within `valid_for` seconds; see `descriptor_for`. None: it
                has the store's own secret, for readers that are trusted with it.
            valid_for: Seconds.

        Raises:
            InvalidState: The rows were withdrawn.
            ConfigError: `reader` or `valid_for` is bad.
        """
        with self._lock:
            lease, half = self._lease, self._half
        if lease is None:
            raise InvalidState("the rows were withdrawn", operation="offer", hint="Call swap() when they are written")
        descriptor = self._engine.descriptor()
        if reader is not None:
            descriptor = descriptor_for(descriptor, reader=reader, valid_for=valid_for)
        return RowOffer(
            descriptor,
            self._engine.incarnation,
            lease.slot,
            lease.epoch,
            self._ids,
            half * self._rows,
            self._matrices,
        )

    def close(self) -> None:
        """End the offers and the engine. Idempotent."""
        self._engine.close()

    def __enter__(self) -> Self:
        """The store itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _next_half(self) -> int:
        return (self._half + 1) % self._generations

    def _rows_of(self, name: str, half: int) -> npt.NDArray[Any]:
        return self._memory[name][half * self._rows : (half + 1) * self._rows]

    def _grant(self, half: int) -> core.LeaseRef:
        return self._engine.grant([range(half * self._rows, (half + 1) * self._rows)], watermark=_ALL_FINAL)

    def _revoke(self) -> None:
        if self._lease is not None:
            self._engine.revoke(self._lease)
            self._lease = None
        self._engine.take_ended()  # so that slots are free again


def _described(
    name: str, given: npt.NDArray[Any] | tuple[int, int, npt.DTypeLike]
) -> tuple[tuple[int, int], Matrix, npt.NDArray[Any] | None]:
    """Rows and elements, and the values if there are any."""
    values = given if isinstance(given, np.ndarray) else None
    try:
        if values is None:
            rows, width, dtype = given
        else:
            rows, dtype = values.shape[0], values.dtype
            width = int(np.prod(values.shape[1:], dtype=np.int64))
        matrix = checked_matrix(name, int(width), np.dtype(dtype).name)
    except (TypeError, ValueError, IndexError) as error:
        raise ConfigError(
            f"matrix {name!r} is no array of rows",
            operation="RowStore",
            status=str(error),
            hint="Give an array of numbers, or its rows, width and dtype",
        ) from error
    if rows < 1:
        raise ConfigError(f"matrix {name!r} has {rows} rows", operation="RowStore")
    return (int(rows), matrix.width), matrix, values
