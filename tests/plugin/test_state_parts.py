# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""States between unequal ranks: what a plan brings is what each rank would have computed itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

import torch
from vllm.v1.attention.backends.registry import MambaAttentionBackendEnum as Kind
from vllm.v1.kv_cache_interface import MambaSpec

from kvdirect.cache.layer_shape import layer_shape
from kvdirect.cache.shard import Shard
from kvtransfer import Axis, Component, Plan, TensorMap
from kvtransfer.errors import MismatchError

INPUTS, HEADS, HEAD, STATES = 3, 4, 8, 16
BLOCKS, BLOCK = 3, 1
Bytes = "npt.NDArray[np.uint8]"


def projections(kind: Kind, groups: int) -> dict[str, int]:
    """Channels of each projection behind the model's convolution."""
    if kind is Kind.SHORT_CONV:
        return {"x": HEADS * HEAD}
    if kind is Kind.MAMBA2:
        return {"x": HEADS * HEAD, "b": groups * STATES, "c": groups * STATES}
    return {"q": groups * STATES, "k": groups * STATES, "v": HEADS * HEAD}


def record(kind: Kind, groups: int, layout: str, shard: Shard) -> tuple[MambaSpec, Bytes]:
    """The spec of a rank, and its record of one and the same model state."""
    channels = []
    for number, size in enumerate(projections(kind, groups).values()):
        whole = 1000 * number + np.arange(size)[:, None] + np.arange(INPUTS)[None, :] / 8
        shared = kind is Kind.MAMBA2 and number > 0 and groups == 1
        part = size if shared else size // shard.size
        channels.append(whole if shared else whole[shard.rank * part :][:part])
    convolution = np.concatenate(channels).astype(np.float32)
    if layout == "SD":
        convolution = np.ascontiguousarray(convolution.T)
    shapes, dtypes, content = [convolution.shape], [torch.float32], convolution.tobytes()
    if kind is not Kind.SHORT_CONV:
        heads = HEADS // shard.size
        recurrent = 7e4 + np.arange(HEADS * HEAD * STATES, dtype=np.float64).reshape(HEADS, HEAD, STATES)
        mine = recurrent[shard.rank * heads :][:heads]
        shapes.append(mine.shape)
        dtypes.append(torch.float64)
        content += mine.tobytes()
    spec = MambaSpec(block_size=2048, shapes=tuple(shapes), dtypes=tuple(dtypes), mamba_type=kind)
    return spec, np.frombuffer(content, np.uint8)


def map_of(spec: MambaSpec, shard: Shard) -> TensorMap:
    size = spec.state_content_size_bytes
    view = torch.zeros((BLOCKS, 1, 1, size), dtype=torch.int8)
    shape = layer_shape(0, "layer", spec, view, "(none)", shard)
    return TensorMap(
        [
            Component(
                part.name + part.heads.only_like,
                [
                    Axis("block", BLOCKS, size),
                    Axis(
                        "head",
                        part.heads.count,
                        part.heads.stride,
                        [(part.heads.first, part.heads.count, 1)] if part.heads.first else [],
                    ),
                    Axis("token", 1, 0),
                    Axis("element", part.size, part.element_stride),
                ],
                dtype=part.dtype,
                item_bytes=part.item_bytes,
                tokens_per_cell=part.tokens_per_cell,
                offset=part.offset,
                replica_group=int(part.heads.replicated),
            )
            for part in shape.parts
        ]
    )


@pytest.mark.parametrize("ranks", [(1, 2), (2, 1), (2, 4), (4, 2), (2, 2), (4, 1)], ids=str)
@pytest.mark.parametrize("layouts", ["DS DS", "SD SD", "DS SD", "SD DS"])
@pytest.mark.parametrize(
    ("kind", "groups"), [(Kind.MAMBA2, 1), (Kind.MAMBA2, 4), (Kind.GDN_ATTN, 4), (Kind.SHORT_CONV, 0)]
)
def test_between_ranks_of_any_number(
    kind: Kind, groups: int, layouts: str, ranks: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    sides: list[list[tuple[TensorMap, Any]]] = []
    for layout, count in zip(layouts.split(), ranks, strict=True):
        monkeypatch.setenv("VLLM_SSM_CONV_STATE_LAYOUT", layout)
        shards = [Shard(rank, count, state_groups=groups) for rank in range(count)]
        specs = [record(kind, groups, layout, shard) for shard in shards]
        sides.append([(map_of(spec, shard), content) for (spec, content), shard in zip(specs, shards, strict=True)])
    owners, readers = sides
    for index, (wanted, expected) in enumerate(readers):
        plan = Plan(wanted, [offered for offered, _ in owners], index * ranks[0] // ranks[1])
        got = np.zeros(BLOCKS * expected.size, np.uint8)
        for shard, (_, content) in enumerate(owners):
            memory = np.tile(content, BLOCKS)
            for _, there, _, here, length in plan.runs(shard, [[BLOCK]], [[2]], 0, 1).tolist():
                got[here : here + length] = memory[there : there + length]
        np.testing.assert_array_equal(got[2 * expected.size :], expected)
        assert not got[: 2 * expected.size].any()


def test_groups_that_cannot_be_told_move_between_equal_ranks_only() -> None:
    """One group a rank may be the model's only one, or one of several."""
    alone, shared = (record(Kind.MAMBA2, 2, "SD", Shard(rank, 2))[0] for rank in (0, 1))
    maps = [map_of(spec, Shard(rank, 2)) for rank, spec in enumerate((alone, shared))]
    assert [[part.name for part in offered.components] for offered in maps] == [["state of 2 ranks"]] * 2
    Plan(maps[0], maps)
    whole = map_of(record(Kind.MAMBA2, 2, "SD", Shard())[0], Shard())
    with pytest.raises(MismatchError, match="described by none"):
        Plan(whole, maps)


def test_a_convolution_that_a_draft_lengthens_is_another() -> None:
    spec, _ = record(Kind.GDN_ATTN, 4, "SD", Shard())
    longer = MambaSpec(2048, ((INPUTS + 2, spec.shapes[0][1]), spec.shapes[1]), spec.dtypes, mamba_type=Kind.GDN_ATTN)
    with pytest.raises(MismatchError, match=r"5 inputs.*3 inputs|3 inputs.*5 inputs"):
        Plan(map_of(spec, Shard()), [map_of(longer, Shard())])
