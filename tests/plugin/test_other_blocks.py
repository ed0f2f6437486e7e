# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Caches whose blocks hold another number of tokens; also 16, which vLLM's attention on a CPU does not take."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

import torch
from test_describe import BLOCKS, COLUMNS, FULL, LATENT, as_backend_reads, cache, describe
from vllm.v1.kv_cache_layout import KVCacheLayout

from kvtransfer import Plan

if TYPE_CHECKING:
    from vllm.v1.kv_cache_interface import KVCacheSpec

# A request's blocks, of which it has fewer where they are larger.
TABLE = [3, 1, 4, 2]
FLASH, LATENT_BACKEND = "FLASH_ATTN", "TRITON_MLA"
NHD, HND = KVCacheLayout.LBNHC, KVCacheLayout.LBHNC


def made(spec: KVCacheSpec, size: int, backend: str, layout: KVCacheLayout) -> tuple[Any, dict[str, torch.Tensor]]:
    config, views = cache(dataclasses.replace(spec, block_size=size), layout)  # type: ignore[type-var]
    return describe(config, views, backend), views


def rows(view: torch.Tensor, backend: str, tokens: int) -> np.ndarray[Any, Any]:
    """What a request has of each token, by the backend's own reading."""
    parts = (view,) if backend == LATENT_BACKEND else as_backend_reads(view, backend)
    size = parts[0].shape[2]
    return np.stack([[part[TABLE[t // size], :, t % size].numpy() for part in parts] for t in range(tokens)])


@pytest.mark.parametrize("sizes", [(16, 32), (32, 16), (16, 48), (96, 64), (16, 16)], ids=str)
@pytest.mark.parametrize(
    ("spec", "owner", "reader"),
    [
        (FULL, (FLASH, NHD), (FLASH, NHD)),
        (FULL, (FLASH, NHD), (FLASH, HND)),
        (FULL, (COLUMNS, HND), (FLASH, NHD)),
        (FULL, ("FLASHINFER", KVCacheLayout.BLNHC), (FLASH, HND)),
        (LATENT, (LATENT_BACKEND, HND), (LATENT_BACKEND, HND)),
    ],
    ids=["NHD", "NHD to HND", "columns to rows", "layers together to apart", "latent"],
)
@pytest.mark.parametrize(("first", "tokens"), [(0, 61), (32, 61), (48, 50)])
def test_every_token_lands_where_the_reader_looks_for_it(
    spec: KVCacheSpec,
    owner: tuple[str, KVCacheLayout],
    reader: tuple[str, KVCacheLayout],
    sizes: tuple[int, int],
    first: int,
    tokens: int,
) -> None:
    lent, lent_views = made(spec, sizes[0], *owner)
    wanted, wanted_views = made(spec, sizes[1], *reader)
    generator = np.random.default_rng(3)
    for view in lent_views.values():
        view.copy_(torch.from_numpy(generator.random(view.shape, dtype=np.float32)))
    plan = Plan(wanted.tensor_map, [lent.tensor_map])
    tables = [[TABLE[: -(-tokens // size)]] for size in sizes]
    there, here = lent.storages[0].numpy().view(np.uint8), wanted.storages[0].numpy().view(np.uint8)
    for _, at, _, to, length in plan.runs(0, *tables, first, tokens).tolist():
        here[to : to + length] = there[at : at + length]
    for layer, view in wanted_views.items():
        found = rows(view, reader[0], tokens)[first:]
        np.testing.assert_array_equal(found, rows(lent_views[layer], owner[0], tokens)[first:])
    assert here.any()
    untouched = set(range(BLOCKS)) - set(TABLE)
    for view in wanted_views.values():
        assert not view[list(untouched)].any()
