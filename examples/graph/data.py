# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Graphs to learn from: WordNet, from Debian's package, and seeded R-MAT graphs of any size."""

from __future__ import annotations

import os
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

SYSTEM_WORDNET = Path("/usr/share/wordnet")
PARTS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
CLASSES = 45  # lexicographer files of WordNet 3.0
WORDNET_NODES = 117_659
RMAT_CLASSES = 16
LABELLED = 4096  # nodes at least
# Rows are drawn in pieces of this size, each from a generator of its own, so that a store draws only what it holds.
PIECE = 1 << 14


@dataclass(frozen=True)
class Topology:
    """An undirected graph as CSR: the neighbours of node i are `indices[indptr[i]:indptr[i + 1]]`, in order."""

    indptr: Ints
    indices: npt.NDArray[np.int32]

    @property
    def nodes(self) -> int:
        """How many there are."""
        return len(self.indptr) - 1

    @property
    def degrees(self) -> Ints:
        """Neighbours of each node."""
        return np.diff(self.indptr)


@dataclass(frozen=True)
class Task:
    """What nodes are to be told apart by: a topology, a class for each node (-1: unknown), and who learns from whom."""

    topology: Topology
    labels: Ints
    train: Ints
    test: Ints
    classes: int


def topology_of(nodes: int, sources: Ints, targets: Ints) -> Topology:
    """The undirected graph of these edges, without loops and with each edge once."""
    keep = sources != targets
    low, high = np.minimum(sources[keep], targets[keep]), np.maximum(sources[keep], targets[keep])
    keys = np.unique(low * nodes + high)
    low, high = keys // nodes, keys % nodes
    both = np.concatenate([keys, high * nodes + low])
    both.sort()
    indptr = np.searchsorted(both, np.arange(nodes + 1, dtype=np.int64) * nodes)
    return Topology(indptr, (both % nodes).astype(np.int32))


def edges_of(topology: Topology) -> tuple[Ints, Ints]:
    """Each undirected edge once, the lower node first."""
    sources = np.repeat(np.arange(topology.nodes, dtype=np.int64), topology.degrees)
    targets = topology.indices.astype(np.int64)
    once = sources < targets
    return sources[once], targets[once]


def split(nodes: Ints, seed: int, tested: float = 0.1) -> tuple[Ints, Ints]:
    """A seeded partition into those to learn from and those to test on."""
    shuffled = np.random.default_rng((seed, 1)).permutation(nodes)
    count = int(len(nodes) * tested)
    return np.sort(shuffled[count:]), np.sort(shuffled[:count])


def wordnet_folder(cache: Path) -> Path:
    """Where WordNet's files are: the system's, or those of Debian's package, unpacked below `cache`.

    Raises:
        FileNotFoundError: Neither is there, and apt-get could not fetch it.
    """
    cache = cache.resolve()
    unpacked = cache / "wordnet-base"
    for folder in (SYSTEM_WORDNET, unpacked / "usr/share/wordnet"):
        if (folder / "data.noun").exists():
            return folder
    part = cache / "wordnet-base.part"
    part.mkdir(parents=True, exist_ok=True)
    try:
        _run("apt-get", "download", "wordnet-base", folder=part)
        _run("dpkg", "-x", str(next(part.glob("wordnet-base_*.deb"))), str(part), folder=part)
    except (OSError, StopIteration, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", b"") or b""
        raise FileNotFoundError(
            f"WordNet is neither in {SYSTEM_WORDNET} nor in {unpacked}, and Debian's package could not be fetched "
            f"({said.decode(errors='replace').strip() or error}). Install wordnet-base, or take --graph rmat"
        ) from error
    part.replace(unpacked)
    return unpacked / "usr/share/wordnet"


def _run(*command: str, folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)  # noqa: S603


@dataclass(frozen=True, kw_only=True)
class GraphSettings:
    """Which graph; plain data.

    Attributes:
        kind: "wordnet" or "rmat".
        cache: Folder for what was downloaded, read or drawn.
        width: Floats of a feature row.
        seed: Of the split, and of all that is drawn.
        nodes: Of an R-MAT graph; a power of two.
        degree: Edges drawn per node of an R-MAT graph.
    """

    kind: str = "wordnet"
    cache: Path = Path("build/graph")
    width: int = 256
    seed: int = 0
    nodes: int = 1 << 20
    degree: int = 8

    @property
    def _folder(self) -> Path:
        name = f"wordnet-{self.width}"
        if self.kind == "rmat":
            name = f"rmat-{self.nodes}-{self.degree}-{self.width}-{self.seed}"
        return self.cache / name

    @property
    def rows_file(self) -> Path | None:
        """The features as `np.load` reads them; None: they are drawn, by `drawn_rows`."""
        return None if self.kind == "rmat" else self._folder / "rows.npy"

    def prepare(self) -> None:
        """Read or draw the graph, unless it was already; what it is for is told by `task` and `rows_file`.

        Raises:
            ValueError: There is no such graph.
            FileNotFoundError: WordNet is not there, and could not be fetched.
        """
        folder = self._folder
        if folder.exists():
            return
        if self.kind == "wordnet":
            parts = _parse(wordnet_folder(self.cache), self.width)
            if len(parts["labels"]) != WORDNET_NODES:
                raise ValueError(f"{len(parts['labels'])} synsets instead of {WORDNET_NODES}: it is not WordNet 3.0")
        elif self.kind == "rmat":
            topology, labels = labelled_rmat(self.nodes, self.degree, self.width, self.seed)
            parts = {"indptr": topology.indptr, "indices": topology.indices, "labels": labels}
        else:
            raise ValueError(f"graph {self.kind!r}: expected wordnet or rmat")
        part = folder.with_name(folder.name + f".part-{os.getpid()}")
        part.mkdir(parents=True)
        for name, array in parts.items():
            np.save(part / f"{name}.npy", array)
        part.replace(folder)

    def task(self) -> Task:
        """The graph, and what is to be learnt of it; after `prepare`."""
        parts = {name: np.load(self._folder / f"{name}.npy") for name in ("indptr", "indices", "labels")}
        labels = parts["labels"]
        train, test = split(np.flatnonzero(labels >= 0), self.seed)
        classes = CLASSES if self.kind == "wordnet" else RMAT_CLASSES
        return Task(Topology(parts["indptr"], parts["indices"]), labels, train, test, classes)

    def rows(self) -> Floats:
        """All features, (nodes, width); after `prepare`."""
        if self.rows_file is not None:
            return np.asarray(np.load(self.rows_file))
        return drawn_rows(np.arange(self.nodes), self.width, self.seed)


def _parse(folder: Path, width: int) -> dict[str, npt.NDArray[np.generic]]:
    """Read the four data files; their format is that of the manual page wndb(5WN)."""
    ids: dict[tuple[str, str], int] = {}
    labels: list[int] = []
    glosses: list[str] = []
    pointers: list[tuple[str, str]] = []
    fans: list[int] = []
    for name, part in PARTS.items():
        with (folder / f"data.{name}").open(encoding="ascii", errors="replace") as lines:
            for line in lines:
                if line.startswith("  "):
                    continue  # the licence
                head, _, gloss = line.partition(" | ")
                fields = head.split()
                ids[part, fields[0]] = len(labels)
                labels.append(int(fields[1]))
                first = 4 + 2 * int(fields[3], 16)
                count = int(fields[first])
                pointed = fields[first + 1 : first + 1 + 4 * count]
                pointers += [
                    (other.replace("s", "a"), offset)
                    for offset, other in zip(pointed[1::4], pointed[2::4], strict=True)
                ]
                fans.append(count)
                glosses.append(gloss)
    sources = np.repeat(np.arange(len(labels), dtype=np.int64), fans)
    targets = np.array([ids[pointer] for pointer in pointers], np.int64)
    topology = topology_of(len(labels), sources, targets)
    return {
        "indptr": topology.indptr,
        "indices": topology.indices,
        "labels": np.array(labels, np.int64),
        "rows": _hashed(glosses, width),
    }


def _hashed(texts: list[str], width: int) -> Floats:
    """A row for each text: its words, counted in `width` buckets with a sign each, scaled to length 1."""
    buckets: dict[str, tuple[int, int]] = {}
    rows = np.zeros((len(texts), width), np.float32)
    for row, text in zip(rows, texts, strict=True):
        for word in text.lower().replace('"', " ").split():
            stem = word.strip("(),.;:'`")
            if stem not in buckets:
                code = zlib.crc32(stem.encode())
                buckets[stem] = (code >> 1) % width, 1 - 2 * (code & 1)
            bucket, sign = buckets[stem]
            row[bucket] += sign
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return rows


def rmat(nodes: int, degree: int, seed: int) -> Topology:
    """A seeded R-MAT graph, whose degrees follow a power law; a node's id says nothing about its degree.

    Args:
        nodes: A power of two, from 2 to 2**26.
        degree: Edges drawn per node; repeated ones and loops are dropped.
        seed: Of all that is drawn.

    Raises:
        ValueError: `nodes` is no such number.
    """
    scale = nodes.bit_length() - 1
    if nodes != 1 << scale or not 1 <= scale <= 26:
        raise ValueError(f"nodes={nodes}: expected a power of two from 2 to 2**26")
    generator = np.random.default_rng((seed, 2))
    count = nodes * degree
    ends = np.zeros((2, count), np.int64)
    # Chances of the four quarters of the matrix, as the Graph 500 benchmark has them.
    for _ in range(scale):
        for first in range(0, count, 1 << 20):
            drawn = generator.random(min(1 << 20, count - first), dtype=np.float32)
            part = ends[:, first : first + len(drawn)]
            part <<= 1
            part[0] += drawn >= 0.76
            part[1] += ((drawn >= 0.57) & (drawn < 0.76)) | (drawn >= 0.95)
    names = generator.permutation(nodes)
    return topology_of(nodes, names[ends[0]], names[ends[1]])


def drawn_rows(ids: Ints, width: int, seed: int) -> Floats:
    """Seeded normal features of these nodes, the same whoever draws them and whichever others are drawn with them.

    Args:
        ids: Node ids, in increasing order.
        width: Floats of a row.
        seed: Of the whole matrix.
    """
    rows = np.empty((len(ids), width), np.float32)
    pieces = ids // PIECE
    starts = np.flatnonzero(np.diff(pieces, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
        piece = int(pieces[start])
        whole = np.random.default_rng((seed, 3, piece)).standard_normal((PIECE, width), dtype=np.float32)
        rows[start:stop] = whole[ids[start:stop] - piece * PIECE]
    return rows


def labelled_rmat(nodes: int, degree: int, width: int, seed: int) -> tuple[Topology, Ints]:
    """An R-MAT graph and labels by own and neighbours' features; 1 node in 16 has one, of a small graph each."""
    topology = rmat(nodes, degree, seed)
    generator = np.random.default_rng((seed, 4))
    known = np.sort(generator.permutation(nodes)[: max(nodes // 16, min(nodes, LABELLED))]).astype(np.int64)
    directions = generator.standard_normal((width, RMAT_CLASSES), dtype=np.float32)
    scores = np.empty((nodes, RMAT_CLASSES), np.float32)
    for first in range(0, nodes, 1 << 18):
        some = np.arange(first, min(nodes, first + (1 << 18)), dtype=np.int64)
        scores[some] = drawn_rows(some, width, seed) @ directions
    labels = np.full(nodes, -1, np.int64)
    degrees = topology.degrees
    for first in range(0, len(known), 1 << 14):
        some = known[first : first + (1 << 14)]
        near = np.zeros((len(some), RMAT_CLASSES), np.float32)
        fan = degrees[some]
        filled = np.flatnonzero(fan)
        starts = np.cumsum(fan) - fan
        flat = np.repeat(topology.indptr[some] - starts, fan) + np.arange(fan.sum())
        if len(filled):
            near[filled] = np.add.reduceat(scores[topology.indices[flat]], starts[filled]) / fan[filled, None]
        labels[some] = np.argmax(scores[some] + 2 * near, axis=1)
    return topology, labels
