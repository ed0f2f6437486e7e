# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Random scenes for the planner: a logical model, shards that hold it, a reader that wants a part of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from kvtransfer import Axis, Component, MemoryKind, TensorMap

Bytes = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int64]

# The orders vLLM knows, with the place of K|V added, and anything else.
KNOWN_ORDERS = [
    ("layer", "block", "part", "head", "token", "element"),
    ("layer", "block", "head", "part", "token", "element"),
    ("layer", "block", "token", "head", "part", "element"),
    ("block", "layer", "part", "head", "token", "element"),
    ("block", "layer", "token", "head", "part", "element"),
    ("part", "layer", "block", "token", "head", "element"),
]


def as_ranges(indices: list[int], step_runs: bool) -> list[tuple[int, int, int]]:
    """Indices in their local order as owned ranges, joined into steps greedily where asked."""
    ranges: list[tuple[int, int, int]] = []
    for index in indices:
        if ranges:
            start, length, step = ranges[-1]
            if length == 1 and index > start and (step_runs or index == start + 1):
                ranges[-1] = (start, 2, index - start)
                continue
            if length > 1 and index == start + length * step:
                ranges[-1] = (start, length + 1, step)
                continue
        ranges.append((index, 1, 1))
    return ranges


@dataclass
class Model:
    """The logical tensors: k and v of shape (layers, positions, heads, elements, bytes), and a state without blocks."""

    layers: int
    heads: int
    elements: int
    item: int
    cells: int  # token cells
    tokens_per_cell: int
    parts: dict[str, Bytes] = field(default_factory=dict)
    state: Bytes | None = None


@dataclass
class Holder:
    """One engine: which layers and heads it has, and how they lie in its one region."""

    model: Model
    layers: list[int]
    heads: list[int]
    order: tuple[str, ...]
    block_size: int
    blocks: int
    padding: dict[str, int]
    step_runs: bool
    offset: int
    replica_group: int
    axis_order: list[str]
    region: int
    buffer: Bytes = field(default_factory=lambda: np.zeros(0, np.uint8))
    components: list[Component] = field(default_factory=list)
    views: dict[str, Bytes] = field(default_factory=dict)
    table: Ids = field(default_factory=lambda: np.zeros(0, np.int64))

    def build(self, rng: np.random.Generator) -> None:
        model = self.model
        extents = {
            "layer": len(self.layers),
            "block": self.blocks,
            "part": 2,
            "head": len(self.heads),
            "token": self.block_size,
            "element": model.elements,
        }
        strides, size = {}, model.item
        for name in reversed(self.order):
            strides[name] = size
            size = size * extents[name] + self.padding.get(name, 0) * model.item
        owned = {"layer": as_ranges(self.layers, self.step_runs), "head": as_ranges(self.heads, self.step_runs)}
        state_bytes = 0
        if model.state is not None:
            state_bytes = len(self.layers) * len(self.heads) * 3
        self.buffer = rng.integers(0, 256, self.offset + size + state_bytes + 5, dtype=np.uint8)
        for index, name in enumerate(("k", "v")):
            offset = self.offset + index * strides["part"]
            axes = [Axis(axis, extents[axis], strides[axis], owned.get(axis, ())) for axis in self.axis_order]
            self.components.append(
                Component(
                    name,
                    axes,
                    dtype="int8",
                    item_bytes=model.item,
                    tokens_per_cell=model.tokens_per_cell,
                    region=self.region,
                    offset=offset,
                    memory=MemoryKind.HOST,
                    replica_group=self.replica_group,
                )
            )
            names = ("layer", "block", "head", "token", "element")
            self.views[name] = np.lib.stride_tricks.as_strided(
                self.buffer[offset:],
                (*(extents[axis] for axis in names), model.item),
                (*(strides[axis] for axis in names), 1),
            )
        if model.state is not None:
            offset = self.offset + size
            axes = [
                Axis("head", len(self.heads), 3, owned["head"]),
                Axis("layer", len(self.layers), 3 * len(self.heads), owned["layer"]),
            ]
            if self.step_runs:  # the other way round
                axes = [
                    Axis("head", len(self.heads), 3 * len(self.layers), owned["head"]),
                    Axis("layer", len(self.layers), 3, owned["layer"]),
                ]
            self.components.append(
                Component(
                    "state",
                    axes,
                    dtype="opaque",
                    item_bytes=3,
                    region=self.region,
                    offset=offset,
                    replica_group=self.replica_group,
                )
            )
            by_name = {axis.name: axis.stride for axis in axes}
            self.views["state"] = np.lib.stride_tricks.as_strided(
                self.buffer[offset:],
                (len(self.layers), len(self.heads), 3),
                (by_name["layer"], by_name["head"], 1),
            )

    @property
    def map(self) -> TensorMap:
        return TensorMap(self.components)

    def write(self, target: dict[str, Bytes], cells: range, wanted: set[int] | None = None) -> None:
        """Put the model's bytes where this holder's table says, for these cells."""
        model = self.model
        for name in ("k", "v"):
            for cell in cells:
                block = self.table[cell // self.block_size]
                if block < 0 or (wanted is not None and cell not in wanted):
                    continue
                logical = model.parts[name][np.ix_(self.layers, [cell], self.heads)][:, 0]
                target[name][:, block, :, cell % self.block_size] = logical
        if model.state is not None:
            target["state"][:] = model.state[np.ix_(self.layers, self.heads)]


@dataclass
class Scene:
    local: Holder
    shards: list[Holder]  # one of each set of replicas
    replicas: list[list[int]]  # for each of them, its places among the remotes
    remotes: list[Holder]
    start: int
    stop: int
    cells: range
    rng: np.random.Generator


def split(draw: st.DrawFn, indices: list[int], most: int) -> list[list[int]]:
    """Deal indices to a few hands, unevenly; every hand ends up in some order, nobody's stays empty."""
    hands: list[list[int]] = [[] for _ in range(draw(st.integers(1, most)))]
    for index in indices:
        hands[draw(st.integers(0, len(hands) - 1))].append(index)
    return [hand if draw(st.booleans()) else hand[::-1] for hand in hands if hand]


def draw_holder(
    draw: st.DrawFn, model: Model, layers: list[int], heads: list[int], group: int = 0, extra_blocks: int = 0
) -> Holder:
    order = draw(st.one_of(st.sampled_from(KNOWN_ORDERS), st.permutations(KNOWN_ORDERS[0]).map(tuple)))
    block_size = draw(st.sampled_from([1, 2, 3, 4, 6, 8]))
    padded = draw(st.lists(st.sampled_from(KNOWN_ORDERS[0]), max_size=2, unique=True))
    return Holder(
        model=model,
        layers=layers,
        heads=heads,
        order=order,
        block_size=block_size,
        blocks=math.ceil(model.cells / block_size) + extra_blocks + draw(st.integers(0, 3)),
        padding={name: draw(st.integers(1, 9)) for name in padded},
        step_runs=draw(st.booleans()),
        offset=draw(st.integers(0, 20)),
        replica_group=group,
        axis_order=draw(st.permutations(["layer", "block", "head", "token", "element"])),
        region=draw(st.integers(0, 3)),
    )


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    model = Model(
        layers=draw(st.integers(1, 4)),
        heads=draw(st.integers(1, 6)),
        elements=draw(st.integers(1, 3)),
        item=draw(st.sampled_from([1, 2])),
        cells=draw(st.integers(1, 24)),
        tokens_per_cell=draw(st.sampled_from([1, 1, 1, 3])),
    )
    for name in ("k", "v"):
        shape = (model.layers, model.cells, model.heads, model.elements, model.item)
        model.parts[name] = rng.integers(0, 256, shape, dtype=np.uint8)
    if draw(st.booleans()):
        model.state = rng.integers(0, 256, (model.layers, model.heads, 3), dtype=np.uint8)

    # The reader wants some of it, the owners hold all of it: a grid of shards, each cell once or as replicas.
    wanted_layers = draw(st.lists(st.integers(0, model.layers - 1), min_size=1, unique=True))
    wanted_heads = draw(st.lists(st.integers(0, model.heads - 1), min_size=1, unique=True))
    local = draw_holder(draw, model, wanted_layers, wanted_heads, extra_blocks=2)
    local.table = rng.permutation(local.blocks)[: math.ceil(model.cells / local.block_size)].astype(np.int64)
    local.build(rng)
    for entry in draw(st.lists(st.integers(0, len(local.table) - 1), max_size=3)):
        local.table[entry] = -1

    positions = model.cells * model.tokens_per_cell
    start = draw(st.integers(0, positions))
    stop = draw(st.integers(start, positions))
    cells = range(start // model.tokens_per_cell, math.ceil(stop / model.tokens_per_cell)) if stop > start else range(0)

    scene = Scene(local, [], [], [], start, stop, cells, rng)
    for layers in split(draw, list(range(model.layers)), 3):
        for heads in split(draw, list(range(model.heads)), 3):
            group = draw(st.sampled_from([0, 0, 5, 6]))
            places = []
            for _ in range(draw(st.integers(1, 3)) if group else 1):
                shard = draw_holder(draw, model, layers, heads, group)
                entries = math.ceil(model.cells / shard.block_size)
                shard.table = rng.permutation(shard.blocks)[:entries].astype(np.int64)
                shard.build(rng)
                shard.write(shard.views, range(model.cells))
                for entry in range(entries):  # what nobody wants may be a hole
                    inside = range(entry * shard.block_size, (entry + 1) * shard.block_size)
                    needed = any(c in cells and local.table[c // local.block_size] >= 0 for c in inside)
                    if not needed and rng.random() < 0.5:
                        shard.table[entry] = -1
                places.append(len(scene.remotes))
                scene.remotes.append(shard)
            scene.shards.append(scene.remotes[places[0]])
            scene.replicas.append(places)
    return scene
