# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The Python snippets of the documents run as they are written."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import time
from typing import Any

import numpy as np
from documents import PAGES, Block, blocks

import kvtransfer

DEADLINE = 60.0
SNIPPETS = [block for page in PAGES for block in blocks(page) if block.language == "python"]
TRIED = ["docs/api.md"] * 7 + ["docs/doctor.md"]


def run(source: str, names: dict[str, Any]) -> None:
    """Execute a snippet, which may await."""
    code = compile(source, "snippet", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(asyncio.wait_for(eval(code, names), DEADLINE))  # noqa: S307  (our own text)
    else:
        exec(code, names)  # noqa: S102  (our own text)


def on(page: str) -> list[Block]:
    return [block for block in SNIPPETS if block.page == page]


def test_every_snippet_is_in_a_test() -> None:
    assert sorted(block.page for block in SNIPPETS) == TRIED, "a snippet came or went: give it a test here"


def test_owner_and_reader() -> None:
    """The owner hands its lease to a reader; what its loop does at the `...` it does again and again."""
    owner, for_one, reader = on("docs/api.md")[:3]
    before, after = owner.text.split("\n...\n")
    target = np.zeros((4, 8, 16), dtype=np.float32)
    local = kvtransfer.Engine(name="reader")
    local.publish(kvtransfer.TensorMap([local.register_tensor("kv", target, ("block", "token", "element"))]))
    freed: list[kvtransfer.LeaseRef] = []

    def read(descriptor: bytes, slot: int, epoch: int) -> None:
        passed = {"kvtransfer": kvtransfer, "engine": names["engine"]}
        run(for_one.text, passed)
        assert passed["descriptor"] != descriptor
        passed |= {"engine": local, "slot": slot, "epoch": epoch}
        run(reader.text, passed)
        assert passed["result"].bytes == target[:2].nbytes

    cache = np.arange(16 * 8 * 16, dtype=np.float32).reshape(16, 8, 16)
    names: dict[str, Any] = {"kvtransfer": kvtransfer, "cache": cache, "send": read, "free": freed.append}
    try:
        run(before, names)
        deadline = time.monotonic() + DEADLINE
        while not freed:
            assert time.monotonic() < deadline, "the lease does not end"
            run(after, names)
            time.sleep(0.01)
    finally:
        local.close()
        names["engine"].close()
    assert freed == [names["lease"]]
    assert (target[:2] == cache[[3, 5]]).all()
    assert not target[2:].any()


def test_an_owner_of_two_shards() -> None:
    """Each has one half of the elements, in blocks of its own."""
    snippet = on("docs/api.md")[3]
    axes = ("block", "token", "element")
    target = np.zeros((4, 8, 16), dtype=np.float32)
    with contextlib.ExitStack() as engines:
        local = engines.enter_context(kvtransfer.Engine(name="reader"))
        local.publish(kvtransfer.TensorMap([local.register_tensor("kv", target, axes)]))
        names: dict[str, Any] = {"engine": local}
        for half, (lease, descriptor, table) in enumerate([("lease", "first", [3, 5]), ("other", "second", [8, 1])]):
            owner = engines.enter_context(kvtransfer.Engine(name=descriptor))
            cache = np.full((16, 8, 8), half + 1, dtype=np.float32)
            whole = owner.register_tensor("kv", cache, axes)
            part = kvtransfer.Axis("element", 8, whole.axes[2].stride, [(8 * half, 8, 1)])
            component = kvtransfer.Component(
                "kv", [*whole.axes[:2], part], dtype=whole.dtype, item_bytes=whole.item_bytes, region=whole.region
            )
            owner.publish(kvtransfer.TensorMap([component]))
            names[lease] = owner.grant([table], watermark=16, term=60.0)
            names[descriptor] = owner.descriptor()
        run(snippet.text, names)
        assert (target[:2, :, :8] == 1).all()
        assert (target[:2, :, 8:] == 2).all()
        assert not target[2:].any()
        assert [part.shard for part in names["result"].shards] == [0, 1]


def test_two_peers_and_a_table_that_is_left_out() -> None:
    snippet = on("docs/api.md")[4]
    with contextlib.ExitStack() as engines:
        local = engines.enter_context(kvtransfer.Engine(name="reader"))
        target = [np.zeros((4, 8)), np.zeros((4, 8))]
        local.publish(_of_tables(local, target))
        names: dict[str, Any] = {"kvtransfer": kvtransfer}
        for number, (peer, lease) in enumerate([("peer", "lease"), ("other", "its_lease")]):
            owner = engines.enter_context(kvtransfer.Engine(name=peer))
            owner.publish(_of_tables(owner, [np.full((10, 8), number + 1.0), np.full((10, 8), number + 10.0)]))
            names[lease] = owner.grant(None, watermark=10)
            names[peer] = local.connect(owner.descriptor())
        run(snippet.text, names)
    assert [array[:, 0].tolist() for array in target] == [[1, 1, 2, 0], [0, 0, 11, 0]]


def _of_tables(engine: kvtransfer.Engine, arrays: list[np.typing.NDArray[np.float64]]) -> kvtransfer.TensorMap:
    return kvtransfer.TensorMap(
        [engine.register_tensor(f"m{i}", array, ("block", "element"), table=i) for i, array in enumerate(arrays)]
    )


def test_rows_by_id() -> None:
    gathered, swapped = on("docs/api.md")[5:]
    features = np.random.default_rng(1).random((1000, 7), np.float32)
    names: dict[str, Any] = {"features": features}
    try:
        run(gathered.text, names)
        np.testing.assert_array_equal(names["batch"], features[[999, 0, 5, 999]])
        run(swapped.text, names)
        np.testing.assert_array_equal(names["changed"], -features[[5]])
    finally:
        for name in ("reader", "first", "second"):
            names[name].close()


def test_the_doctor() -> None:
    [snippet] = on("docs/doctor.md")
    names: dict[str, Any] = {}
    run(snippet.text, names)
    assert names["report"].usable, names["report"].as_text()
    for word in ("verdict", "checks", "as_text"):
        assert f"report.{word}" in snippet.text
        assert hasattr(names["report"], word)
