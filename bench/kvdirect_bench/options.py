# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The command line, and what it means."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from .contenders import OTHERS, Contender, lane_contender, others
from .errors import BenchUsageError
from .scene import LAYOUTS, PAGES, Layout, Pages, Scene

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    _T = TypeVar("_T")

DESCRIPTION = """\
Pull blocks by every lane that works here, beside other ways to move the same blocks, interleaved in one run, and check
every byte. Times are from the call to the validated end. `--loopback` runs both sides here; on two machines, start
`serve --listen DEV` on the owner's and `run HOST:PORT --listen DEV` on the reader's. Options that take a list, with
commas, make a sweep. Results go to standard output, progress to standard error. Exit status 0: all bytes were right."""
ROUNDS = 9
_QUICK_ROUNDS = 3
FORMATS = ("table", "csv", "json")
_SUFFIXES = (".png", ".html")
_RAW_BLOCK = 32768
_RAW_BLOCKS = 8192
# Shapes that are the same in every distribution of the model.
_MODELS = {"llama-3-8b": {"layers": 32, "kv_heads": 8, "head_size": 128}}
_KV_OPTIONS = ("layers", "kv_heads", "head_size")


@dataclass(frozen=True, slots=True)
class Options:
    """A checked command line."""

    mode: str
    address: str
    listen: str
    port: int
    scenes: tuple[Scene, ...]
    contenders: tuple[Contender, ...]
    rounds: int
    warmup: int
    copy_threads: int
    pythons: tuple[str, ...]
    format: str
    plot: Path | None
    corrupt: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = DESCRIPTION
    parser.add_argument("mode", nargs="?", choices=("serve", "run"), help="one side of two machines")
    parser.add_argument("address", nargs="?", metavar="HOST:PORT", help="for run: where `serve` listens")
    parser.add_argument("--loopback", action="store_true", help="run both sides on this machine")
    parser.add_argument("--listen", default="lo", metavar="DEV", help="network device to use (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="for serve: where to listen (default: any free port)")
    _add_raw(parser.add_argument_group("raw blocks"))
    _add_kv(parser.add_argument_group("KV caches", "instead of --block-bytes; --blocks then follows from --tokens"))
    _add_run(parser.add_argument_group("the run"))
    _add_output(parser.add_argument_group("output"))


def _add_raw(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--block-bytes", metavar="LIST", help=f"bytes of a block (default: {_RAW_BLOCK})")
    group.add_argument("--blocks", metavar="LIST", help=f"blocks of a pull (default: {_RAW_BLOCKS})")
    group.add_argument(
        "--fragmentation",
        default="1",
        metavar="LIST",
        help="0: the blocks are one run; 1: each is scattered at random (default: %(default)s)",
    )
    group.add_argument(
        "--pages", default="2m", metavar="LIST", help=f"{', '.join(PAGES)}: what memory is on (default: %(default)s)"
    )


def _add_kv(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model-shape", choices=sorted(_MODELS), help="layers, KV heads and head size of a model")
    group.add_argument("--layers", type=int, help="layers, each with keys and values")
    group.add_argument("--kv-heads", type=int, help="KV heads of the model")
    group.add_argument("--head-size", type=int, help="elements of one head of one token")
    group.add_argument("--block-size", metavar="LIST", default="16", help="tokens of a block (default: %(default)s)")
    group.add_argument("--tokens", metavar="LIST", default="2048", help="tokens of a pull (default: %(default)s)")
    group.add_argument("--dtype-bytes", type=int, default=2, help="bytes of an element (default: %(default)s)")
    group.add_argument("--tp", metavar="LIST", default="1", help="shards: N, or OWNER:READER (default: %(default)s)")
    group.add_argument(
        "--layout", metavar="LIST", default="NHD", help="NHD, HND, or OWNER:READER (default: %(default)s)"
    )


def _add_run(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--lanes", metavar="LIST", help="lanes to measure (default: those that work here)")
    group.add_argument("--vs", metavar="LIST", default="", help=f"beside: {', '.join(OTHERS)}")
    group.add_argument("--rounds", type=int, help=f"turns of each engine (default and, with --vs, least: {ROUNDS})")
    group.add_argument("--quick", action="store_true", help=f"permit fewer; {_QUICK_ROUNDS} unless --rounds says more")
    group.add_argument("--warmup", type=int, default=1, help="rounds before those that count (default: %(default)s)")
    group.add_argument("--copy-threads", type=int, default=2, help="of kvtransfer's engines (default: %(default)s)")
    group.add_argument(
        "--peer-python", action="append", default=[], metavar="LIB=PATH", help="the Python that has a peer's library"
    )
    group.add_argument(
        "--corrupt", action="store_true", help="flip a byte of everything that arrives: shows that it is found"
    )


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--format", choices=FORMATS, default="table", help="(default: %(default)s)")
    group.add_argument("--plot", type=Path, metavar="FILE", help="also draw it: .png (needs matplotlib) or .html")


def read_options(args: argparse.Namespace, known_lanes: Sequence[str]) -> Options:
    """Check what argparse left unchecked.

    Args:
        args: As parsed.
        known_lanes: Lanes that this version of kvtransfer has.

    Raises:
        BenchUsageError: Something is impossible; says what, and what would do.
    """
    mode = _mode(args)
    scenes = () if mode == "serve" else _scenes(args)
    contenders = (*_lanes(args.lanes, known_lanes), *others(_words("--vs", args.vs)))
    if args.plot is not None and args.plot.suffix not in _SUFFIXES:
        raise BenchUsageError(f"--plot {args.plot}: expected a name that ends in {' or '.join(_SUFFIXES)}")
    for name, low, high in (("port", 0, 65535), ("warmup", 0, 1000), ("copy_threads", 1, 64)):
        if not low <= getattr(args, name) <= high:
            flag = f"--{name.replace('_', '-')}"
            raise BenchUsageError(f"{flag} {getattr(args, name)}: expected {low} to {high}")
    return Options(
        mode=mode,
        address=args.address or "",
        listen=args.listen,
        port=args.port,
        scenes=tuple(scenes),
        contenders=contenders,
        rounds=_rounds(args),
        warmup=args.warmup,
        copy_threads=args.copy_threads,
        pythons=tuple(args.peer_python),
        format=args.format,
        plot=args.plot,
        corrupt=args.corrupt,
    )


def _mode(args: argparse.Namespace) -> str:
    if args.loopback and args.mode:
        raise BenchUsageError(f"--loopback and {args.mode} exclude each other: --loopback runs both sides here")
    if not args.loopback and not args.mode:
        raise BenchUsageError("say where: --loopback (both sides here), or `serve` and `run HOST:PORT` on two machines")
    if (args.mode == "run") != bool(args.address):
        raise BenchUsageError("run needs HOST:PORT, as `serve` prints it on the other machine; nothing else takes one")
    return args.mode or "loopback"


def _rounds(args: argparse.Namespace) -> int:
    rounds = args.rounds if args.rounds is not None else _QUICK_ROUNDS if args.quick else ROUNDS
    if not 1 <= rounds <= 10000:
        raise BenchUsageError(f"--rounds {rounds}: expected 1 to 10000")
    if args.vs and rounds < ROUNDS and not args.quick:
        raise BenchUsageError(f"--rounds {rounds}: ratios need at least {ROUNDS} rounds; --quick permits fewer")
    return int(rounds)


def _lanes(text: str | None, known: Sequence[str]) -> tuple[Contender, ...]:
    if text is None:
        return tuple(lane_contender(lane, optional=True) for lane in known)
    chosen = _words("--lanes", text)
    for lane in chosen:
        if lane not in known:
            raise BenchUsageError(f"--lanes {lane}: expected some of {', '.join(known)}")
    if not chosen:
        raise BenchUsageError(f"--lanes: expected some of {', '.join(known)}")
    return tuple(lane_contender(lane) for lane in dict.fromkeys(chosen))


def _scenes(args: argparse.Namespace) -> list[Scene]:
    shape = {**_MODELS.get(args.model_shape or "", {})}
    shape |= {name: getattr(args, name) for name in _KV_OPTIONS if getattr(args, name) is not None}
    return _kv_scenes(args, shape) if shape else _raw_scenes(args)


def _raw_scenes(args: argparse.Namespace) -> list[Scene]:
    return [
        Scene("raw", 1, 1, blocks, 1, 1, size, fragmentation, pages)
        for size, blocks, fragmentation, pages in itertools.product(
            _numbers("--block-bytes", args.block_bytes or str(_RAW_BLOCK)),
            _numbers("--blocks", args.blocks or str(_RAW_BLOCKS)),
            *_placing(args),
        )
    ]


def _kv_scenes(args: argparse.Namespace, shape: dict[str, int]) -> list[Scene]:
    missing = [f"--{name.replace('_', '-')}" for name in _KV_OPTIONS if name not in shape]
    if missing:
        raise BenchUsageError(f"a KV cache also needs {', '.join(missing)}; or take --model-shape {min(_MODELS)}")
    for name in ("block_bytes", "blocks"):
        if getattr(args, name) is not None:
            raise BenchUsageError(f"--{name.replace('_', '-')} is for raw blocks; a KV cache has --tokens")
    row = shape["head_size"] * args.dtype_bytes
    scenes = []
    for block_size, tokens, tp, layout, fragmentation, pages in itertools.product(
        _numbers("--block-size", args.block_size),
        _numbers("--tokens", args.tokens),
        _words("--tp", args.tp),
        _words("--layout", args.layout),
        *_placing(args),
    ):
        if block_size < 1 or tokens % block_size:
            raise BenchUsageError(f"--tokens {tokens}: expected a multiple of --block-size {block_size}")
        tps, layouts = _pair("--tp", tp), _pair("--layout", layout)
        if any(word not in LAYOUTS for word in layouts):
            raise BenchUsageError(f"--layout {layout}: expected {' or '.join(LAYOUTS)}, or OWNER:READER")
        scenes.append(
            Scene(
                kind="kv",
                parts=2,
                layers=shape["layers"],
                blocks=tokens // block_size,
                tokens=block_size,
                heads=shape["kv_heads"],
                row_bytes=row,
                fragmentation=fragmentation,
                pages=pages,
                owner_tp=_number("--tp", tps[0]),
                reader_tp=_number("--tp", tps[1]),
                owner_layout=cast("Layout", layouts[0]),
                reader_layout=cast("Layout", layouts[1]),
            )
        )
    return scenes


def _placing(args: argparse.Namespace) -> tuple[list[float], list[Pages]]:
    return (
        [_parsed("--fragmentation", word, float) for word in _words("--fragmentation", args.fragmentation)],
        [cast("Pages", word) for word in _words("--pages", args.pages)],
    )


def _words(flag: str, text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")] if text else []
    if "" in words:
        raise BenchUsageError(f"{flag} {text}: an element of the list is empty")
    return words


def _pair(flag: str, text: str) -> tuple[str, str]:
    owner, colon, reader = text.partition(":")
    if colon and not reader:
        raise BenchUsageError(f"{flag} {text}: expected one value for both sides, or OWNER:READER")
    return owner, reader or owner


def _numbers(flag: str, text: str) -> list[int]:
    return [_number(flag, word) for word in _words(flag, text)]


def _number(flag: str, word: str) -> int:
    value = _parsed(flag, word, int)
    if value < 1:
        raise BenchUsageError(f"{flag} {word}: expected at least 1")
    return value


def _parsed(flag: str, word: str, kind: Callable[[str], _T]) -> _T:
    try:
        return kind(word)
    except ValueError as error:
        raise BenchUsageError(f"{flag} {word}: expected a number") from error
