# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What is refused: stores that cannot be, and offers that make no sense."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import kvtransfer as kt
from kvtransfer.rows import Matrix, RowOffer, RowReader, RowStore

from .row_store import FEATURES, WIDTH
from .row_stores import HALVES

if TYPE_CHECKING:
    from .row_stores import Reading, Stores


@pytest.mark.parametrize(
    ("matrices", "options", "told"),
    [
        ({}, {}, "matrices have no rows"),
        ({"x": (3, 1, "f4"), "y": (4, 1, "f4")}, {}, "matrices have 3, 4 rows"),
        ({"x": (3, 0, "f4")}, {}, "matrix 'x' is no array of rows"),
        ({"x": (3, 1, "O")}, {}, "matrix 'x' is no array of rows"),
        ({"x": (3, 1)}, {}, "matrix 'x' is no array of rows"),
        ({"x": np.float32(1)}, {}, "matrix 'x' is no array of rows"),
        ({"": (3, 1, "f4")}, {}, "1 to 256 characters"),
        ({"x": (0, 1, "f4")}, {}, "has 0 rows"),
        ({"x": (3, 1, "f4")}, {"ids": range(4)}, "expected an ascending range of 3"),
        ({"x": (3, 1, "f4")}, {"ids": range(2, -1, -1)}, "expected an ascending range of 3"),
        ({"x": (3, 1, "f4")}, {"generations": 3}, "expected 1 or 2"),
    ],
)
def test_bad_stores_are_refused(matrices: Any, options: Any, told: str) -> None:  # noqa: ANN401
    with pytest.raises(kt.ConfigError, match=told):
        RowStore(matrices, **options)


def test_offers_of_other_rows_are_refused(stores: Stores, reading: Reading) -> None:
    _, offers = stores(HALVES)
    known = RowOffer.from_bytes(offers[0])
    assert RowOffer.from_bytes(known.to_bytes()) == known
    reader = reading(offers)
    with pytest.raises(kt.ConfigError, match=r"store 1 has ids range\(1700, 3000\), not range\(0, 1700\)"):
        reader.replace(1, offers[0])
    with pytest.raises(kt.ConfigError, match="there is no store 2"):
        reader.replace(2, offers[0])
    with RowStore({FEATURES: (1300, WIDTH, np.uint32)}, ids=HALVES[1]) as other:
        with pytest.raises(kt.ConfigError, match=r"store 1 offers nothing where .*labels"):
            reader.replace(1, other.offer())
        spliced = json.loads(offers[1])
        spliced["descriptor"] = json.loads(other.offer().to_bytes())["descriptor"]
        with pytest.raises(kt.ConfigError, match="another engine's descriptor"):
            RowReader([json.dumps(spliced).encode()], max_rows=1, matrices=[FEATURES])
    with pytest.raises(kt.ConfigError, match=r"5 slots of 1000000000000 rows are \d+ bytes, this host has \d+"):
        RowReader(offers, max_rows=10**12, slots=5)
    with pytest.raises(kt.ConfigError, match="no store was given"):
        RowReader([], max_rows=1)
    # Rows that the store does not have.
    far = json.loads(offers[0])
    far["first"] = 1
    with pytest.raises(kt.ConfigError, match="an offer of rows up to 1701"):
        RowReader([json.dumps(far).encode()], max_rows=1)


def test_whoever_has_only_an_expired_offer_is_refused() -> None:
    with RowStore({"x": (3, 1, "f4")}) as store:
        mine = store.offer(reader="trainer", valid_for=60)
        with RowReader([mine], max_rows=3) as reader, reader.gather([2, 0]).wait(30) as slot:
            assert slot["x"].shape == (2, 1)
        late = store.offer(reader="trainer", valid_for=0.01)
        time.sleep(0.1)
        with pytest.raises(kt.ConnectError):
            RowReader([late], max_rows=3)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"ids": [0, 10]},
        {"ids": [0, 10, 0]},
        {"ids": [10, 0, 1]},
        {"ids": [0, 1 << 63, 1]},
        {"ids": [0, 3.0, 1]},
        {"first": -1},
        {"first": True},
        {"slot": 1 << 32},
        {"epoch": 1 << 64},
        {"matrices": []},
        {"matrices": [{"name": "x", "width": 1, "dtype": "O"}]},
        {"matrices": [{"name": "x", "width": 1, "dtype": "no"}]},
        {"matrices": [{"name": "x", "width": 0, "dtype": "float32"}]},
        {"matrices": [{"name": "x", "width": (4 << 20) + 1, "dtype": "float32"}]},
        {"matrices": [{"name": "x" * 257, "width": 1, "dtype": "float32"}]},
        {"matrices": [{"name": "x", "width": 1, "dtype": "float32"}] * 2},
        {"matrices": [[]]},
        {"descriptor": "~"},
        {"descriptor": None},
    ],
)
def test_offers_that_make_no_sense_do_not_decode(change: dict[str, object]) -> None:
    good = RowOffer(b"d", 1, 2, 3, range(3), 0, (Matrix("x", 1, "float32"),)).to_bytes()
    RowOffer.from_bytes(good)
    with pytest.raises(kt.CodecError, match="no offer of rows"):
        RowOffer.from_bytes(json.dumps({**json.loads(good), **change}).encode())
    for junk in (b"", b"[]", b"{}", b"\xff", b"[" * 100_000, good[:-1]):
        with pytest.raises(kt.CodecError):
            RowOffer.from_bytes(junk)
