# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The benchmark's own honesty: what it measures is what it says, and a single wrong byte is found."""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kvdirect.cli import bench
from kvdirect.errors import CommandError
from kvdirect_bench.backends.base import Reader, Settings
from kvdirect_bench.block_ids import count_runs, scattered
from kvdirect_bench.channel import LINE_LIMIT, Channel, ChannelClosed
from kvdirect_bench.contenders import by_name, lane_contender, others
from kvdirect_bench.errors import BenchError, BenchUsageError
from kvdirect_bench.memory import allocate, count_pages, page_kind
from kvdirect_bench.options import Options, add_arguments, read_options
from kvdirect_bench.pattern import Pattern
from kvdirect_bench.process import LocalHost
from kvdirect_bench.pythons import find_python, parse_pythons, python_of
from kvdirect_bench.serve import Desk
from kvdirect_bench.worker import take_turn
from kvdirect_bench.workload import Layout, Workload
from kvtransfer._native import core

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvdirect_bench.block_ids import Ids

LANES = ("cma", "message")


def read(*words: str) -> Options:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser)
    return read_options(parser.parse_args(words), LANES)


def raw(blocks: int = 16, size: int = 64, fragmentation: float = 1.0) -> Workload:
    return Workload("raw", 1, 1, blocks, 1, 1, size, fragmentation, "default")


# ---- the command line ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "--loopback"),
        (["--loopback", "serve"], "exclude"),
        (["run"], "HOST:PORT"),
        (["serve", "here:1"], "HOST:PORT"),
        (["--loopback", "--block-bytes", "12"], "--block-bytes is 12: expected a multiple of 8"),
        (["--loopback", "--block-bytes", "many"], "--block-bytes many: expected a number"),
        (["--loopback", "--blocks", "0"], "--blocks 0: expected at least 1"),
        (["--loopback", "--blocks", "1,,2"], "an element of the list is empty"),
        (["--loopback", "--fragmentation", "2"], "--fragmentation 2.0"),
        (["--loopback", "--fragmentation", "nan"], "--fragmentation nan"),
        (["--loopback", "--pages", "1g"], "--pages 1g: expected one of 4k, 2m, default"),
        (["--loopback", "--lanes", "pigeon"], "--lanes pigeon: expected some of cma, message"),
        (["--loopback", "--vs", "pigeon"], "--vs pigeon: expected some of memcpy"),
        (["--loopback", "--vs", "memcpy", "--rounds", "3"], "--quick permits fewer"),
        (["--loopback", "--rounds", "0"], "--rounds 0"),
        (["--loopback", "--copy-threads", "0"], "--copy-threads 0: expected 1 to 64"),
        (["--loopback", "--port", "70000"], "--port 70000"),
        (["--loopback", "--plot", "out.gif"], "--plot out.gif: expected a name that ends in .png or .html"),
        (["--loopback", "--layers", "2"], "also needs --kv-heads, --head-size"),
        (["--loopback", "--model-shape", "llama-3-8b", "--blocks", "2"], "--blocks is for raw blocks"),
        (["--loopback", "--model-shape", "llama-3-8b", "--tokens", "17"], "--tokens 17: expected a multiple"),
        (["--loopback", "--model-shape", "llama-3-8b", "--tp", "3"], "--tp 3:3 with 8 KV heads"),
        (["--loopback", "--model-shape", "llama-3-8b", "--tp", "2:1"], "multiple of the owner's"),
        (["--loopback", "--model-shape", "llama-3-8b", "--tp", "2:"], "OWNER:READER"),
        (["--loopback", "--model-shape", "llama-3-8b", "--layout", "HDN"], "--layout HDN"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(words: list[str], says: str) -> None:
    with pytest.raises(BenchUsageError) as refusal:
        read(*words)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_lists_make_a_sweep() -> None:
    options = read("--loopback", "--block-bytes", "64,128", "--blocks", "2, 3", "--pages", "4k,2m")
    found = {(workload.unit_bytes, workload.units, workload.pages) for workload in options.workloads}
    assert found == {(size, blocks, pages) for size in (64, 128) for blocks in (2, 3) for pages in ("4k", "2m")}
    assert [one.name for one in options.contenders] == ["kvdirect-cma", "kvdirect-message"]
    assert all(one.optional for one in options.contenders)
    assert options.rounds == 9


def test_lanes_that_were_named_must_be_there() -> None:
    options = read("--loopback", "--lanes", "cma,cma", "--vs", "memcpy,memcpy", "--quick")
    assert [(one.name, one.optional) for one in options.contenders] == [("kvdirect-cma", False), ("memcpy", False)]
    assert options.rounds == 3


def test_a_model_has_its_shape() -> None:
    (workload,) = read("--loopback", "--model-shape", "llama-3-8b", "--tokens", "64").workloads
    assert workload.pull_bytes == 2 * 32 * 64 * 8 * 128 * 2
    assert workload.unit_bytes == 16 * 8 * 128 * 2
    (smaller,) = read("--loopback", "--model-shape", "llama-3-8b", "--layers", "2", "--tokens", "64").workloads
    assert smaller.pull_bytes == workload.pull_bytes // 16


def test_contenders_have_names() -> None:
    assert by_name("kvdirect-cma-1t") == lane_contender("cma", copy_threads=1)
    assert by_name("nixl-best") == others(["nixl-best"])[0]
    with pytest.raises(BenchUsageError, match="pigeon"):
        by_name("pigeon")


def test_a_library_that_is_missing_is_named() -> None:
    with pytest.raises(BenchError, match=r"no_such_library.*make bench-peers.*--peer-python no_such_library="):
        find_python("no_such_library", {})
    with pytest.raises(BenchUsageError, match="--peer-python nixl=/nowhere"):
        parse_pythons(["nixl=/nowhere"])


# ---- blocks, units, bytes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fragmentation", [0.0, 0.1, 0.5, 1.0])
def test_blocks_are_scattered_as_asked(fragmentation: float) -> None:
    blocks, pool = 200, 400
    remote, local = (scattered(blocks, pool, fragmentation, seed) for seed in (4, 6))
    for ids in (remote, local):
        assert len(set(ids.tolist())) == blocks
        assert ids.min() >= 0
        assert ids.max() < pool
    wanted = 1 + round(fragmentation * (blocks - 1))
    assert 0.95 * wanted <= count_runs(remote, local) <= wanted


def test_another_seed_is_other_blocks() -> None:
    assert scattered(50, 100, 1.0, 1).tolist() == scattered(50, 100, 1.0, 1).tolist()
    assert scattered(50, 100, 1.0, 1).tolist() != scattered(50, 100, 1.0, 2).tolist()


def view(memory: np.ndarray[Any, Any], workload: Workload, heads: int, layout: Layout) -> np.ndarray[Any, Any]:
    """Axes part, layer, block, token, head, byte, whatever the layout."""
    head = (workload.parts, workload.layers, workload.pool_blocks)
    if layout == "NHD":
        return memory.reshape(*head, workload.tokens, heads, workload.row_bytes)
    return memory.reshape(*head, heads, workload.tokens, workload.row_bytes).swapaxes(3, 4)


@pytest.mark.parametrize("layouts", [("NHD", "NHD"), ("HND", "HND"), ("NHD", "HND"), ("HND", "NHD")])
@pytest.mark.parametrize("tps", [(1, 1), (1, 2), (2, 4), (2, 2)])
def test_units_are_the_same_pull_as_blocks(layouts: tuple[Layout, Layout], tps: tuple[int, int]) -> None:
    workload = Workload("kv", 2, 3, 5, 4, 8, 16, 1.0, "default", *tps, *layouts)
    owned = np.random.default_rng(1).integers(0, 256, workload.memory_bytes(workload.owner), dtype=np.uint8)
    found = np.zeros(workload.memory_bytes(workload.reader), dtype=np.uint8)
    source, target = workload.unit_tables(3)
    assert source.size == target.size == workload.units
    found.reshape(-1, workload.unit_bytes)[target] = owned.reshape(-1, workload.unit_bytes)[source]
    expected = np.zeros_like(found)
    remote, local = workload.block_tables(3)
    heads = slice(workload.owner.first, workload.owner.first + workload.reader.heads)
    wanted = view(owned, workload, workload.owner.heads, layouts[0])[:, :, remote][:, :, :, :, heads]
    view(expected, workload, workload.reader.heads, layouts[1])[:, :, local] = wanted
    assert np.array_equal(found, expected)


def pulled(workload: Workload) -> tuple[Pattern, np.ndarray[Any, Any], Ids, Ids]:
    """The reader's memory after a pull that went well."""
    pattern = Pattern(workload.unit_bytes)
    owned = np.zeros(workload.memory_bytes(workload.owner), dtype=np.uint8)
    memory = np.zeros(workload.memory_bytes(workload.reader), dtype=np.uint8)
    pattern.fill(owned)
    pattern.clear(memory)
    source, target = workload.unit_tables(1)
    memory.reshape(-1, workload.unit_bytes)[target] = owned.reshape(-1, workload.unit_bytes)[source]
    return pattern, memory, source, target


@pytest.mark.parametrize("workload", [raw(), raw(blocks=3, size=1 << 21), raw(blocks=5000, size=8)])
def test_what_is_right_is_right(workload: Workload) -> None:
    pattern, memory, source, target = pulled(workload)
    assert pattern.wrong_bytes(memory, source, target) == 0


@pytest.mark.parametrize("bit", range(8))
def test_any_flipped_bit_is_found(bit: int) -> None:
    workload = raw()
    pattern, memory, source, target = pulled(workload)
    for unit in range(memory.size // workload.unit_bytes):  # those that were asked for, and those that were not
        place = unit * workload.unit_bytes + 7 * unit % workload.unit_bytes
        memory[place] ^= 1 << bit
        assert pattern.wrong_bytes(memory, source, target) == 1
        memory[place] ^= 1 << bit


def test_blocks_in_each_others_places_are_found() -> None:
    pattern, memory, source, target = pulled(raw())
    units = memory.reshape(-1, 64)
    units[target[[0, 1]]] = units[target[[1, 0]]]
    assert pattern.wrong_bytes(memory, source, target) > 100


def test_a_block_that_never_came_is_found() -> None:
    pattern, memory, source, target = pulled(raw())
    pattern.clear(memory.reshape(-1, 64)[target[3]])
    assert pattern.wrong_bytes(memory, source, target) > 50


class Shelf(Reader):
    """Copies within this process."""

    def start(self, invitation: Mapping[str, Any]) -> dict[str, Any]:
        self.owned = np.zeros(self.workload.memory_bytes(self.workload.owner), dtype=np.uint8)
        Pattern(self.workload.unit_bytes).fill(self.owned)
        return dict(invitation)

    def aim(self, seed: int, offer: Mapping[str, Any]) -> None:
        del offer
        self.tables = self.workload.unit_tables(seed)

    def pull(self) -> float:
        source, target = self.tables
        unit = self.workload.unit_bytes
        self.memory.reshape(-1, unit)[target] = self.owned.reshape(-1, unit)[source]
        return 1e-6


@pytest.mark.parametrize("corrupt", [False, True])
def test_a_turn_checks_what_arrived(corrupt: bool) -> None:
    reader = Shelf(raw(), Settings(corrupt=corrupt))
    reader.start({})
    for seed in (1, 2):  # what the first turn left must not count in the second
        told = take_turn(reader, Pattern(reader.workload.unit_bytes), seed, {}, 3)
        assert told["wrong"] == int(corrupt)
        assert len(told["seconds"]) == len(told["posts"]) == 3


def test_a_pull_that_does_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Shelf(raw(), Settings())
    reader.start({})
    take_turn(reader, Pattern(64), 1, {}, 1)
    monkeypatch.setattr(Shelf, "pull", lambda _: 0.0)
    assert take_turn(reader, Pattern(64), 1, {}, 1)["wrong"] > 900


# ---- memory --------------------------------------------------------------------------------------------------------

SMAPS = """\
7f0000000000-7f0000400000 rw-p 00000000 00:00 0
Rss:                4096 kB
AnonHugePages:      {} kB
ShmemPmdMapped:        0 kB
VmFlags: rd wr mr
7f0000800000-7f0000c00000 rw-p 00000000 00:00 0
Rss:                4096 kB
AnonHugePages:         0 kB
"""


@pytest.mark.parametrize(("large", "name"), [(4096, "2m"), (0, "4k"), (2048, "mixed (50 % 2m)")])
def test_pages_are_counted(large: int, name: str) -> None:
    assert count_pages(SMAPS.format(large), 0x7F0000000000, 0x7F0000100000).name.replace("64k", "4k") == name


def test_memory_begins_at_a_large_page_and_is_private() -> None:
    memory = allocate(3 << 20, "4k")
    assert memory.__array_interface__["data"][0] % (2 << 20) == 0
    memory[:] = 1
    assert page_kind(memory).endswith("k")


# ---- between processes ---------------------------------------------------------------------------------------------


def test_lines_have_a_limit_and_a_deadline() -> None:
    source, sink = os.pipe()
    try:
        channel = Channel(source, sink, "somebody")
        with pytest.raises(BenchError, match="somebody did not answer"):
            channel.receive(0.01)
        channel.send({"a": 1}, 1.0)
        assert channel.receive(1.0) == {"a": 1}
        os.write(sink, b"[1]\n")
        with pytest.raises(BenchError, match="no JSON object"):
            channel.receive(1.0)
        channel._pending = b"x" * (LINE_LIMIT + 1)
        with pytest.raises(BenchError, match="a line of more than"):
            channel.receive(1.0)
    finally:
        os.close(sink)
        os.close(source)


def test_descriptors_may_be_large() -> None:
    """A process that has a thousand sockets open gets such."""
    pipe = os.pipe()
    source, sink = (fcntl.fcntl(end, fcntl.F_DUPFD, 1 << 10) for end in pipe)
    try:
        channel = Channel(source, sink, "somebody")
        channel.send({"a": 1}, 1.0)
        assert channel.receive(1.0) == {"a": 1}
    finally:
        for end in (*pipe, source, sink):
            os.close(end)


def test_the_end_of_the_other_side_is_told() -> None:
    source, sink = os.pipe()
    spare = os.dup(sink)
    channel = Channel(source, spare, "somebody")
    os.close(sink)
    os.close(spare)
    with pytest.raises(ChannelClosed, match="somebody is gone"):
        channel.receive(1.0)
    os.close(source)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({}, "no command"),
        ({"do": "eval"}, "no command 'eval'"),
        ({"do": "hello", "protocol": 0}, "install the same kvdirect on both"),
        ({"do": "call", "id": 7, "command": "start", "arguments": {}}, "no process 7"),
        ({"do": "call"}, "makes no sense"),
        ({"do": "open", "contender": "pigeon", "workload": {}, "settings": {}}, "pigeon"),
        ({"do": "open", "contender": "memcpy", "workload": {"blocks": "x"}, "settings": {}}, "unknown workload"),
    ],
)
def test_serve_refuses_what_it_does_not_know(message: dict[str, Any], says: str) -> None:
    assert says in Desk(LocalHost({}), "lo").answer(message)["error"]


def test_serve_does_not_take_more_memory_than_there_is() -> None:
    workload = raw(blocks=1 << 30, size=1 << 20).as_dict()
    told = Desk(LocalHost({}), "lo").answer({"do": "open", "contender": "socket", "workload": workload, "settings": {}})
    assert "does not fit" in told["error"]


def test_yardsticks_that_are_not_built_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a wheel, which has none; what needs none goes on."""
    monkeypatch.setitem(sys.modules, "kvdirect_bench._native", None)
    for name in ("memcpy", "memcpy2", "socket", "socket2", "ucx"):
        with pytest.raises(BenchError, match=r"yardsticks cannot be loaded.*`make setup`.*KVDIRECT_BENCH=1 pip"):
            LocalHost({}).open(by_name(name), "reader", raw(), Settings())
    assert python_of(by_name("kvdirect-cma"), {}) == sys.executable


def test_the_shipped_extension_has_no_yardsticks() -> None:
    assert not [name for name in dir(core) if any(word in name for word in ("memcpy", "socket", "Ucx"))]


def test_the_package_says_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name="kvdirect_bench")

    monkeypatch.setattr(bench.importlib, "import_module", missing)
    with pytest.raises(CommandError, match=r"kvdirect_bench.*bench/transfer_bench.py"):
        bench.add_arguments(argparse.ArgumentParser())
