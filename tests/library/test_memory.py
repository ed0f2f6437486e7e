# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Buffers, tensors and block tables: what can be registered, and what is refused."""

from __future__ import annotations

import array
import ctypes
import gc
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import kvtransfer as kt
from kvtransfer.arrays import int_table, memory_of

if TYPE_CHECKING:
    from collections.abc import Iterator

TABLE = ("block", "element")
NAMES = {name: getattr(kt, name) for name in kt.__all__}


@pytest.fixture
def engine() -> Iterator[kt.Engine]:
    with kt.Engine(name="unit") as made:
        yield made


class TestMemory:
    def test_numpy_and_views(self) -> None:
        whole = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
        address = whole.__array_interface__["data"][0]
        memory = memory_of(whole, "test")
        assert (memory.address, memory.length, memory.offset) == (address, 48, 0)
        assert (memory.shape, memory.strides, memory.dtype) == ((2, 3, 4), (24, 8, 2), "int16")
        assert memory.contiguous
        view = memory_of(whole.transpose(2, 0, 1)[1:, :, ::2], "test")
        assert (view.address, view.length, view.offset) == (address, 48, 2)
        assert (view.shape, view.strides) == ((3, 2, 2), (2, 24, 16))
        assert not view.contiguous
        assert memory_of(whole[::-1], "test").length == 48

    @pytest.mark.parametrize(
        "buffer", [bytearray(64), array.array("d", [1.0] * 8), memoryview(bytearray(64)), (ctypes.c_double * 8)()]
    )
    def test_buffers(self, buffer: object) -> None:
        memory = memory_of(buffer, "test")
        assert memory.length == 64
        assert not memory.readonly

    def test_array_interface(self) -> None:
        kept = np.arange(6, dtype=np.float32)

        class Holder:
            __array_interface__ = kept.__array_interface__

        memory = memory_of(Holder(), "test")
        assert memory.address == kept.__array_interface__["data"][0]
        assert memory.length == 24

    def test_torch_and_views(self) -> None:
        torch = pytest.importorskip("torch")
        whole = torch.zeros(2, 3, 4, dtype=torch.bfloat16)
        view = memory_of(whole.permute(2, 0, 1)[1:], "test")
        assert (view.address, view.length, view.offset) == (whole.data_ptr(), 48, 2)
        assert (view.shape, view.strides) == ((3, 2, 3), (2, 24, 8))
        assert (view.dtype, view.item_bytes) == ("bfloat16", 2)
        with pytest.raises(kt.ConfigError, match="meta"):
            memory_of(torch.zeros(4, device="meta"), "test")
        with pytest.raises(kt.ConfigError, match="layout"):
            memory_of(torch.zeros(4, 4).to_sparse(), "test")

    def test_what_cannot_be_registered(self) -> None:
        class OnDevice:
            __cuda_array_interface__: dict[str, Any] = {}  # noqa: RUF012

        with pytest.raises(kt.ConfigError, match="__cuda_array_interface__ without typestr"):
            memory_of(OnDevice(), "test")
        with pytest.raises(kt.ConfigError, match="int has no memory"):
            memory_of(3, "test")
        with pytest.raises(kt.ConfigError, match="Python objects"):
            memory_of(np.array([object()]), "test")
        with pytest.raises(kt.ConfigError, match="no bytes"):
            memory_of(np.empty((3, 0)), "test")
        assert memory_of(b"fixed", "test").readonly

    def test_tables(self) -> None:
        already = np.array([1, -1], dtype=np.int64)
        assert int_table(already, "t", "test") is already
        for value in ([1, -1], (1, -1), np.array([1, -1], dtype=np.int32), np.array([1, 9, -1, 9])[::2]):
            converted = int_table(value, "t", "test")
            assert converted.dtype == np.int64
            assert converted.flags.c_contiguous
            assert converted.tolist() == [1, -1]
        assert int_table([], "t", "test").size == 0
        for bad in ([1.0], [[1]], ["a"], [True], np.array([1 << 63], dtype=np.uint64), 3):
            with pytest.raises(kt.PlanError, match="remote"):
                int_table(bad, "remote[0]", "test")


class TestRegister:
    def test_regions_and_components(self, engine: kt.Engine) -> None:
        cache = np.zeros((2, 4, 8, 3), dtype=np.float32)
        k = engine.register_tensor("k", cache[0], ("block", "token", "element"))
        v = engine.register_tensor("v", cache[1].transpose(1, 0, 2), ("token", "block", "element"))
        assert k.region == v.region == 0
        assert (k.offset, v.offset) == (0, cache[0].nbytes)
        assert [(axis.name, axis.extent, axis.stride) for axis in v.axes] == [
            ("token", 8, 12),
            ("block", 4, 96),
            ("element", 3, 4),
        ]
        assert (k.dtype, k.item_bytes) == ("float32", 4)
        assert engine.register(bytearray(64)) == 1
        engine.publish(kt.TensorMap([k, v]))
        assert len(engine.descriptor()) > 0

    def test_torch_components(self, engine: kt.Engine) -> None:
        torch = pytest.importorskip("torch")
        cache = torch.zeros(4, 2, 8, 3, dtype=torch.float16).permute(1, 0, 2, 3)
        component = engine.register_tensor("kv", cache, ("part", "block", "token", "element"))
        assert [axis.stride for axis in component.axes] == [48, 96, 6, 2]
        assert component.dtype == "float16"
        engine.publish(kt.TensorMap([component]))

    @pytest.mark.parametrize(
        ("tensor", "axes", "words"),
        [
            (np.zeros((2, 3)), ("block",), "one name per dimension"),
            (np.zeros((2, 3)), "ab", "one name per dimension"),
            (np.zeros((2, 3)), ("block", "block"), "twice"),
            (np.zeros((2, 3))[::-1], ("block", "element"), "'block' runs backwards"),
            (
                np.lib.stride_tricks.as_strided(np.zeros(3), (2, 3), (0, 8)),
                ("block", "element"),
                "'block' is broadcast",
            ),
        ],
    )
    def test_what_cannot_be_described(
        self, engine: kt.Engine, tensor: object, axes: tuple[str, ...], words: str
    ) -> None:
        with pytest.raises(kt.ConfigError, match=words) as caught:
            engine.register_tensor("latent", tensor, axes)
        assert "'latent'" in str(caught.value)

    def test_read_only_memory_must_be_declared(self, engine: kt.Engine) -> None:
        with pytest.raises(kt.ConfigError, match="readonly=True"):
            engine.register(b"constant")
        assert engine.register(b"constant", readonly=True) == 0

    def test_memory_is_kept_alive(self) -> None:
        class Tracked(bytearray):
            pass

        buffer = Tracked(4096)
        alive = weakref.ref(buffer)
        engine = kt.Engine()
        engine.register(buffer)
        del buffer
        gc.collect()
        assert alive() is not None
        engine.close()
        gc.collect()
        assert alive() is None

    def test_memory_is_kept_alive_by_a_pull_that_writes_it(self) -> None:
        class Tracked(bytearray):
            pass

        buffer = Tracked(4096)
        alive = weakref.ref(buffer)
        with kt.Engine() as owner:
            owner.publish(kt.TensorMap([owner.register_tensor("kv", np.zeros((1, 4096), np.uint8), TABLE)]))
            lease = owner.grant([[0]], watermark=0)
            reader = kt.Engine()
            memory = np.frombuffer(buffer, np.uint8).reshape(1, 4096)
            reader.publish(kt.TensorMap([reader.register_tensor("kv", memory, TABLE)]))
            pull = reader.connect(owner.descriptor()).pull(lease, [[0]], [[0]], stop=1)
            del buffer, memory, reader
            gc.collect()
            assert alive() is not None
            assert not pull.done
            pull.cancel()
            del pull
            gc.collect()
            assert alive() is None

    def test_publish_is_checked_and_once(self, engine: kt.Engine) -> None:
        with pytest.raises(kt.ConfigError, match="publish"):
            engine.descriptor()
        region = engine.register(bytearray(64))
        too_long = kt.Component("x", [kt.Axis("block", 9, 8)], dtype="u8", item_bytes=8, region=region)
        with pytest.raises(kt.PlanError, match="x"):
            engine.publish(kt.TensorMap([too_long]))
        fits = kt.Component("x", [kt.Axis("block", 8, 8)], dtype="u8", item_bytes=8, region=region)
        engine.publish(kt.TensorMap([fits]))
        with pytest.raises(kt.ConfigError, match="already"):
            engine.publish(kt.TensorMap([fits]))
