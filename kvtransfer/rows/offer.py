# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What a store tells its readers, as bytes that any way may carry."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from kvtransfer._native import core
from kvtransfer.errors import CodecError

_VERSION = 1
_MOST_BYTES = 64 << 20
_MOST_MATRICES = 1024
_MOST_NAME = 256
_MOST_ROW_BYTES = 16 << 20
_LAST = 1 << 62
_RENEWAL = struct.Struct("<QIQQ")
# Of NumPy: rows are plain numbers.
_KINDS = "biufc"


@dataclass(frozen=True, slots=True)
class Matrix:
    """One matrix of a store.

    Attributes:
        name: How it is called, on both sides.
        width: Elements of a row.
        dtype: NumPy's name of the element type.
    """

    name: str
    width: int
    dtype: str

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.width * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class RowOffer:
    """Rows that a store promises, with all that a reader needs to connect; plain data, so it may be pickled, too.

    It has the secret of the store's engine, or a single reader's part of it; whoever has an offer can read the rows.

    Attributes:
        descriptor: Of the store's engine.
        incarnation: The same engine's.
        slot: Of the lease.
        epoch: Of the lease.
        ids: Ids of the rows, in order.
        first: The block of the first row.
        matrices: What a row has, in the order of the store's map.
    """

    descriptor: bytes = field(repr=False)
    incarnation: int
    slot: int
    epoch: int
    ids: range
    first: int
    matrices: tuple[Matrix, ...]

    @property
    def lease(self) -> core.LeaseRef:
        """What the rows are promised under."""
        return core.LeaseRef(self.slot, self.epoch)

    def renewal(self) -> bytes:
        """What differs in a store's next offer, short enough for `Peer.notify`; for `renewed`."""
        return _RENEWAL.pack(self.incarnation, self.slot, self.epoch, self.first)

    def renewed(self, renewal: bytes) -> RowOffer:
        """This offer as its store renewed it.

        Raises:
            CodecError: It is no renewal, or another engine's.
        """
        try:
            incarnation, slot, epoch, first = _RENEWAL.unpack(renewal)
        except struct.error as error:
            raise CodecError("these bytes renew no offer", operation="RowOffer", status=str(error)) from error
        if incarnation != self.incarnation or first >= _LAST:
            raise CodecError("another store's offer is renewed", operation="RowOffer")
        return replace(self, slot=slot, epoch=epoch, first=first)

    def to_bytes(self) -> bytes:
        """The offer as UTF-8 JSON."""
        fields = asdict(self)
        fields["version"] = _VERSION
        fields["descriptor"] = base64.b64encode(self.descriptor).decode()
        fields["ids"] = [self.ids.start, self.ids.stop, self.ids.step]
        return json.dumps(fields, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> RowOffer:
        """What `to_bytes` gave; nothing in it is trusted, and the descriptor is looked at when it is connected to.

        Raises:
            CodecError: It is no offer, or one of another version.
        """
        try:
            return _decoded(data)
        except (KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
            raise CodecError("these bytes are no offer of rows", operation="RowOffer", status=str(error)) from error


def _decoded(data: bytes) -> RowOffer:
    if len(data) > _MOST_BYTES:
        raise ValueError(f"{len(data)} bytes, at most {_MOST_BYTES}")
    fields = json.loads(data)
    if not isinstance(fields, dict):
        raise TypeError("it is no object")
    if fields["version"] != _VERSION:
        raise ValueError(f"version {fields['version']!r}, expected {_VERSION}")
    start, stop, step = (_number(part, "ids", _LAST) for part in _listed(fields["ids"], 3))
    ids = range(start, stop, max(step, 1))
    first = _number(fields["first"], "first", _LAST)
    if step == 0 or len(ids) == 0:
        raise ValueError("there are no ids")
    matrices = _listed(fields["matrices"], _MOST_MATRICES)
    if not matrices:
        raise ValueError("there are no matrices")
    offer = RowOffer(
        base64.b64decode(fields["descriptor"], validate=True),
        _number(fields["incarnation"], "incarnation", 1 << 64),
        _number(fields["slot"], "slot", 1 << 32),
        _number(fields["epoch"], "epoch", 1 << 64),
        ids,
        first,
        tuple(checked_matrix(one["name"], one["width"], one["dtype"]) for one in matrices),
    )
    if len({one.name for one in offer.matrices}) < len(offer.matrices):
        raise ValueError("a matrix is there twice")
    return offer


def checked_matrix(name: object, width: object, dtype: object) -> Matrix:
    """A matrix, or TypeError or ValueError saying what is wrong with it."""
    if not isinstance(name, str) or not 0 < len(name) <= _MOST_NAME:
        raise ValueError(f"a matrix's name is {name!r}, expected 1 to {_MOST_NAME} characters")
    elements = _number(width, f"the width of {name!r}", 1 << 32)
    kind = np.dtype(dtype if isinstance(dtype, str) else "")
    if elements == 0 or kind.kind not in _KINDS or not kind.isnative:
        raise ValueError(f"matrix {name!r} has {elements} elements of {kind.name} a row, expected plain numbers")
    matrix = Matrix(name, elements, kind.name)
    if matrix.row_bytes > _MOST_ROW_BYTES:
        raise ValueError(f"matrix {name!r} has rows of {matrix.row_bytes} bytes, at most {_MOST_ROW_BYTES}")
    return matrix


def _listed(value: Any, most: int) -> list[Any]:  # noqa: ANN401  (as JSON has it)
    if not isinstance(value, list) or len(value) > most:
        raise TypeError(f"expected a list of {most} at most")
    return value


def _number(value: object, name: str, end: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < end:
        raise ValueError(f"{name} is {str(value)[:40]}, expected a whole number from 0, below {end}")
    return value
