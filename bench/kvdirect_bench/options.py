# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The command line, and what it means."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from .arguments import number_of, numbers_of, pair_of, parsed, words_of
from .contenders import CUDA_COPIES, OTHERS, Contender, lane_contender, lane_devices, others
from .errors import BenchUsageError
from .workload import DEVICES, LAYOUTS, PAGES, Device, Layout, Pages, Workload

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

DESCRIPTION = """\
Pull blocks by every lane that works here, beside other ways to move the same blocks, interleaved in one run, and check
every byte. Times are from the call to the validated end. `--loopback` runs both sides here; on two machines, start
`serve --listen DEV` on the owner's and `run HOST:PORT --listen DEV` on the reader's. Options that take a list, with
commas, make a sweep. Results go to standard output, progress to standard error. Exit status 0: all bytes were right.
Another benchmark, of rows gathered by id, is `kvdirect bench rows` (`rows_bench.py` in a checkout)."""
ROUNDS = 9
_QUICK_ROUNDS = 3
FORMATS = ("table", "csv", "json")
_SUFFIXES = (".png", ".html")
_RAW_BLOCK = 32768
# On a GPU enough for launches not to count, and many times its L2 cache.
_PULL_BYTES: dict[Device, int] = {"cpu": 256 << 20, "cuda": 1 << 30}
_PAGES: Pages = "2m"
# Shapes that are the same in every distribution of the model.
_MODELS = {"llama-3-8b": {"layers": 32, "kv_heads": 8, "head_size": 128}}
_KV_OPTIONS = ("layers", "kv_heads", "head_size")


@dataclass(frozen=True, slots=True)
class Options:
    """A checked command line."""

    workloads: tuple[Workload, ...]
    contenders: tuple[Contender, ...]
    rounds: int
    mode: str = "loopback"
    address: str = ""
    listen: str = "lo"
    port: int = 0
    warmup: int = 1
    copy_threads: int = 2
    pythons: tuple[str, ...] = ()
    format: str = "table"
    plot: Path | None = None
    corrupt: bool = False
    device: Device = "cpu"
    cuda_sms: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = DESCRIPTION
    parser.add_argument("mode", nargs="?", choices=("serve", "run"), help="one side of two machines")
    parser.add_argument("address", nargs="?", metavar="HOST:PORT", help="for run: where `serve` listens")
    parser.add_argument("--loopback", action="store_true", help="run both sides on this machine")
    parser.add_argument(
        "--device", choices=DEVICES, default="cpu", help="whose memory both sides have (default: %(default)s)"
    )
    parser.add_argument("--listen", default="lo", metavar="DEV", help="network device to use (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="for serve: where to listen (default: any free port)")
    _add_raw(parser.add_argument_group("raw blocks"))
    _add_kv(parser.add_argument_group("KV caches", "instead of --block-bytes; --blocks then follows from --tokens"))
    _add_run(parser.add_argument_group("the run"))
    _add_output(parser.add_argument_group("output"))


def _add_raw(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--block-bytes", metavar="LIST", help=f"bytes of a block, also as 4k or 1m (default: {_RAW_BLOCK})"
    )
    group.add_argument("--blocks", metavar="LIST", help="blocks of a pull (default: as --pull-bytes says)")
    group.add_argument(
        "--pull-bytes",
        metavar="N",
        help=f"bytes of a pull, where --blocks does not say (default: {_PULL_BYTES['cpu'] >> 20}m; "
        f"with --device cuda {_PULL_BYTES['cuda'] >> 20}m)",
    )
    group.add_argument(
        "--fragmentation",
        default="1",
        metavar="LIST",
        help="0: the blocks are one run; 1: each is scattered at random (default: %(default)s)",
    )
    group.add_argument(
        "--pages", metavar="LIST", help=f"{', '.join(PAGES)}: what host memory is on (default: {_PAGES})"
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
        "--cuda-copy",
        default=",".join(CUDA_COPIES),
        metavar="LIST",
        help="how lane cuda_ipc copies: by our kernels, by the driver's batched copies (default: %(default)s)",
    )
    group.add_argument(
        "--cuda-sms", type=int, default=0, help="multiprocessors a pull may keep busy (default: as the engine chooses)"
    )
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
    workloads = () if mode == "serve" else _workloads(args)
    contenders = (*_lanes(args, known_lanes), *others(words_of("--vs", args.vs), args.device))
    if args.plot is not None and args.plot.suffix not in _SUFFIXES:
        raise BenchUsageError(f"--plot {args.plot}: expected a name that ends in {' or '.join(_SUFFIXES)}")
    for name, low, high in (("port", 0, 65535), ("warmup", 0, 1000), ("copy_threads", 1, 64), ("cuda_sms", 0, 1024)):
        if not low <= getattr(args, name) <= high:
            flag = f"--{name.replace('_', '-')}"
            raise BenchUsageError(f"{flag} {getattr(args, name)}: expected {low} to {high}")
    return Options(
        mode=mode,
        address=args.address or "",
        listen=args.listen,
        port=args.port,
        workloads=tuple(workloads),
        contenders=contenders,
        rounds=_rounds(args),
        warmup=args.warmup,
        copy_threads=args.copy_threads,
        pythons=tuple(args.peer_python),
        format=args.format,
        plot=args.plot,
        corrupt=args.corrupt,
        device=args.device,
        cuda_sms=args.cuda_sms,
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


def _lanes(args: argparse.Namespace, known: Sequence[str]) -> tuple[Contender, ...]:
    """Those that were named, which must be there, or all that carry such memory, as far as they work."""
    usable = [lane for lane in known if args.device in lane_devices(lane)]
    chosen = usable if args.lanes is None else list(dict.fromkeys(words_of("--lanes", args.lanes)))
    for lane in chosen:
        if lane not in known:
            raise BenchUsageError(f"--lanes {lane}: expected some of {', '.join(known)}")
        if lane not in usable:
            raise BenchUsageError(
                f"--lanes {lane}: does not carry memory of --device {args.device}; expected some of {', '.join(usable)}"
            )
    if not chosen:
        raise BenchUsageError(
            f"--lanes: expected some of {', '.join(known)}"
            if args.lanes is not None
            else f"--device {args.device}: this kvtransfer has no lane that carries such memory"
        )
    copies = _copies(args.cuda_copy)
    return tuple(
        lane_contender(lane, cuda_copy=copy, optional=args.lanes is None)
        for lane in chosen
        for copy in (copies if lane_devices(lane) == ("cuda",) else [""])
    )


def _copies(text: str) -> list[str]:
    copies = list(dict.fromkeys(words_of("--cuda-copy", text)))
    if not copies or any(copy not in CUDA_COPIES for copy in copies):
        raise BenchUsageError(f"--cuda-copy {text}: expected some of {', '.join(CUDA_COPIES)}")
    return copies


def _workloads(args: argparse.Namespace) -> list[Workload]:
    shape = {**_MODELS.get(args.model_shape or "", {})}
    shape |= {name: getattr(args, name) for name in _KV_OPTIONS if getattr(args, name) is not None}
    return _kv_workloads(args, shape) if shape else _raw_workloads(args)


def _raw_workloads(args: argparse.Namespace) -> list[Workload]:
    return [
        Workload("raw", 1, 1, blocks, 1, 1, size, fragmentation, pages, device=args.device)
        for size in numbers_of("--block-bytes", args.block_bytes or str(_RAW_BLOCK))
        for blocks, fragmentation, pages in itertools.product(_raw_blocks(args, size), *_placing(args))
    ]


def _raw_blocks(args: argparse.Namespace, size: int) -> list[int]:
    if args.blocks is not None:
        if args.pull_bytes is not None:
            raise BenchUsageError("--blocks and --pull-bytes exclude each other: one follows from the other")
        return numbers_of("--blocks", args.blocks)
    total = _PULL_BYTES[args.device] if args.pull_bytes is None else number_of("--pull-bytes", args.pull_bytes)
    if total < size:
        raise BenchUsageError(f"--pull-bytes {total}: less than a block of --block-bytes {size}")
    return [total // size]


def _kv_workloads(args: argparse.Namespace, shape: dict[str, int]) -> list[Workload]:
    missing = [f"--{name.replace('_', '-')}" for name in _KV_OPTIONS if name not in shape]
    if missing:
        raise BenchUsageError(f"a KV cache also needs {', '.join(missing)}; or take --model-shape {min(_MODELS)}")
    for name in ("block_bytes", "blocks", "pull_bytes"):
        if getattr(args, name) is not None:
            raise BenchUsageError(f"--{name.replace('_', '-')} is for raw blocks; a KV cache has --tokens")
    row = shape["head_size"] * args.dtype_bytes
    workloads = []
    for block_size, tokens, tp, layout, fragmentation, pages in itertools.product(
        numbers_of("--block-size", args.block_size),
        numbers_of("--tokens", args.tokens),
        words_of("--tp", args.tp),
        words_of("--layout", args.layout),
        *_placing(args),
    ):
        if block_size < 1 or tokens % block_size:
            raise BenchUsageError(f"--tokens {tokens}: expected a multiple of --block-size {block_size}")
        tps, layouts = pair_of("--tp", tp), pair_of("--layout", layout)
        if any(word not in LAYOUTS for word in layouts):
            raise BenchUsageError(f"--layout {layout}: expected {' or '.join(LAYOUTS)}, or OWNER:READER")
        workloads.append(
            Workload(
                kind="kv",
                parts=2,
                layers=shape["layers"],
                blocks=tokens // block_size,
                tokens=block_size,
                heads=shape["kv_heads"],
                row_bytes=row,
                fragmentation=fragmentation,
                pages=pages,
                owner_tp=number_of("--tp", tps[0]),
                reader_tp=number_of("--tp", tps[1]),
                owner_layout=cast("Layout", layouts[0]),
                reader_layout=cast("Layout", layouts[1]),
                device=args.device,
            )
        )
    return workloads


def _placing(args: argparse.Namespace) -> tuple[list[float], list[Pages]]:
    if args.device == "cuda" and args.pages is not None:
        raise BenchUsageError(f"--pages {args.pages}: is for host memory; leave it out with --device cuda")
    pages = _PAGES if args.pages is None else args.pages
    return (
        [parsed("--fragmentation", word, float) for word in words_of("--fragmentation", args.fragmentation)],
        ["default"] if args.device == "cuda" else [cast("Pages", word) for word in words_of("--pages", pages)],
    )
