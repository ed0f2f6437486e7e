# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Whatever the shards and layouts: applying a plan is the same as indexing the logical tensors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plan_scenes import Holder, Scene, scenes

from kvtransfer import (
    Axis,
    CodecError,
    Component,
    MemoryKind,
    MismatchError,
    Plan,
    PlanError,
    TensorMap,
    block_extents,
)

RELAXED = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def maps(holders: list[Holder]) -> list[TensorMap]:
    return [holder.map for holder in holders]


def check_runs(rows: npt.NDArray[np.uint64], remote: Holder, local: Holder) -> None:
    """Ascending, apart from each other, and nothing left to join."""
    assert rows.shape[1] == 5
    assert np.all(rows[:, 0] == remote.region)
    assert np.all(rows[:, 2] == local.region)
    assert np.all(rows[:, 4] > 0)
    ends = rows[:-1, 1] + rows[:-1, 4]
    assert np.all(ends <= rows[1:, 1])
    joinable = (ends == rows[1:, 1]) & (rows[:-1, 3] + rows[:-1, 4] == rows[1:, 3])
    assert not joinable.any()


@RELAXED
@given(scene=scenes(), reader=st.integers(0, 5))
def test_plan_equals_indexing(scene: Scene, reader: int) -> None:
    local = scene.local
    expected = local.buffer.copy()
    views = {
        name: np.lib.stride_tricks.as_strided(
            expected[view.__array_interface__["data"][0] - local.buffer.__array_interface__["data"][0] :],
            view.shape,
            view.strides,
        )
        for name, view in local.views.items()
    }
    local.write(views, scene.cells)

    plan = Plan(local.map, maps(scene.remotes), reader_index=reader)
    written = np.zeros(len(local.buffer), np.int64)
    users = set()
    for index, remote in enumerate(scene.remotes):
        rows = plan.runs(index, [remote.table], [local.table], scene.start, scene.stop)
        check_runs(rows, remote, local)
        for _, source, _, target, length in rows.tolist():
            local.buffer[target : target + length] = remote.buffer[source : source + length]
            written[target : target + length] += 1
            users.add(index)
    assert written.max(initial=0) <= 1
    np.testing.assert_array_equal(local.buffer, expected)
    for places in scene.replicas:
        assert len(users.intersection(places)) <= 1


@RELAXED
@given(scene=scenes(), which=st.integers(0, 100), double=st.booleans())
def test_missing_and_double_shards_are_refused(scene: Scene, which: int, double: bool) -> None:
    local = scene.local
    place = which % len(scene.replicas)
    places = scene.replicas[place]
    shard = scene.shards[place]
    if double:
        again = Holder(**{**shard.__dict__, "components": [], "views": {}, "replica_group": 0})
        again.build(scene.rng)
        remotes = [*maps(scene.remotes), again.map]
    else:
        remotes = [remote.map for index, remote in enumerate(scene.remotes) if index not in places]
    if set(shard.layers) & set(local.layers) and set(shard.heads) & set(local.heads):
        with pytest.raises(
            (PlanError, MismatchError),
            match="component 'k': .*both hold" if double else "component 'k': .*(is held|described by none)",
        ):
            Plan(local.map, remotes)
    elif remotes:
        Plan(local.map, remotes)  # nobody wanted it


@RELAXED
@given(scene=scenes())
def test_extents_are_the_bytes_of_the_blocks(scene: Scene) -> None:
    for holder in scene.remotes:
        held = np.zeros(len(holder.buffer), bool)
        base = holder.buffer.__array_interface__["data"][0]
        ids = np.unique(holder.table[holder.table >= 0])
        for name, view in holder.views.items():
            marks = np.lib.stride_tricks.as_strided(
                held[view.__array_interface__["data"][0] - base :], view.shape, view.strides
            )
            if name == "state":
                marks[:] = True
            else:
                marks[:, ids] = True
        rows = block_extents(holder.map, [holder.table])
        found = np.zeros(len(holder.buffer), bool)
        for region, offset, length in rows.tolist():
            assert region == holder.region
            found[offset : offset + length] = True
        np.testing.assert_array_equal(found, held)
        assert np.all(rows[:-1, 1] + rows[:-1, 2] < rows[1:, 1])


@RELAXED
@given(scene=scenes())
def test_maps_survive_encoding_and_repr(scene: Scene) -> None:
    names = {"Axis": Axis, "Component": Component, "TensorMap": TensorMap, "MemoryKind": MemoryKind}
    for holder in [scene.local, *scene.remotes]:
        again = TensorMap.decode(holder.map.encode())
        assert again == holder.map
        assert hash(again) == hash(holder.map)
        assert eval(repr(holder.map), names) == holder.map  # noqa: S307
        regions = [0] * holder.region + [len(holder.buffer)]
        again.validate(regions)
        with pytest.raises(PlanError, match="does not exist"):
            again.validate(regions[:-1])


@RELAXED
@given(scene=scenes(), data=st.data())
def test_damaged_maps_decode_or_are_refused(scene: Scene, data: st.DataObject) -> None:
    encoded = bytearray(scene.local.map.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        damaged = TensorMap.decode(bytes(encoded))
    except CodecError:
        return
    try:
        plan = Plan(scene.local.map, [damaged])
    except (PlanError, MismatchError):
        return
    tables = [np.arange(64)] * 4
    for window in ((0, 1), (scene.start, scene.stop)):
        try:
            rows = plan.runs(0, tables, [scene.local.table] * 4, *window)
        except PlanError:
            continue
        # Whatever the peer says of itself, nothing is written outside what is ours.
        assert np.all(rows[:, 3] + rows[:, 4] <= len(scene.local.buffer))


def small_map() -> TensorMap:
    axes = [Axis("block", 8, 64), Axis("token", 4, 16)]
    return TensorMap([Component("k", axes, dtype="bfloat16", item_bytes=16)])


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.uint32, np.int64, np.uint64, list])
def test_tables_may_be_any_integers(kind: type) -> None:
    plan = Plan(small_map(), [small_map()])
    table = [1, 3, 2] if kind is list else np.array([1, 3, 2], kind)
    rows = plan.runs(0, [table], [table], 0, 12)
    assert rows.dtype == np.uint64
    assert rows.tolist() == [[0, 64, 0, 64, 192]]
    assert plan.runs(0, [[]], [[]], 0, 0).shape == (0, 5)
    strided = np.array([1, 9, 3, 9, 2, 9], np.int64)[::2]
    np.testing.assert_array_equal(plan.runs(0, [strided], [table], 0, 12), rows)


@pytest.mark.parametrize("table", [[1.5], [[1, 2]], 3, ["a"], [True], [None]])
def test_other_tables_are_refused(table: object) -> None:
    plan = Plan(small_map(), [small_map()])
    with pytest.raises(PlanError, match="one-dimensional array of integers"):
        plan.runs(0, [table], [[1]], 0, 4)


def test_large_unsigned_ids_are_no_holes() -> None:
    plan = Plan(small_map(), [small_map()])
    huge = np.array([2**64 - 1], np.uint64)
    with pytest.raises(PlanError, match="entry 0 is"):
        plan.runs(0, [[1]], [huge], 0, 4)


def test_mismatch_names_component_field_and_both_values() -> None:
    there = TensorMap([Component("k", small_map().components[0].axes, dtype="float32", item_bytes=16)])
    with pytest.raises(MismatchError, match="component 'k': dtype is 'bfloat16' here and 'float32' at the peer"):
        Plan(small_map(), [there])
