# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The command line of the serving benchmark, and what it means."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvdirect.harness.model import SHAPES, LlamaShape
from kvdirect_bench.errors import BenchUsageError
from kvdirect_bench.options import FORMATS
from kvdirect_bench.pythons import parse_pythons

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

DESCRIPTION = """\
Send the same prompts through vLLM engines that prefill and decode themselves, and through pairs of engines that move
the cache with kvdirect and with NixlConnector, interleaved in one run, and compare every token. Needs vLLM; results go
to standard output, progress to standard error. Exit status 0: all tokens were the same."""
AGGREGATED, KVDIRECT, AT_ONCE, STREAMED, NIXL, NIXL_BEST = CONTENDERS = (
    "aggregated", "kvdirect", "kvdirect-concurrent", "kvdirect-streamed", "nixl", "nixl-best"
)  # fmt: skip
_USUAL = (AGGREGATED, KVDIRECT, NIXL)
TARGETS_PARAMETERS = 100_000_000
# Three processes of each of two engines wait by spinning, and some other ones want to run too.
_MANY_CPUS = 8
# Inclusive limits. A position more is needed for each token than the model has.
_LIMITS = {
    "rounds": (1, 10000),
    "requests": (1, 1000),
    "concurrency": (1, 64),
    "prompt_tokens": (2, 7000),
    "output_tokens": (2, 1000),
    "step_tokens": (0, 16384),
    "shared_prefix": (0, 6999),
    "warmup": (0, 1000),
}


@dataclass(frozen=True, slots=True)
class Options:
    """A checked command line."""

    contenders: tuple[str, ...]
    model_size: str
    dtype: str
    rounds: int
    warmup: int
    requests: int
    concurrency: int
    prompt_tokens: int
    output_tokens: int
    step_tokens: int
    shared_prefix: int
    waiting: str
    apart: bool
    lanes: tuple[str, ...]
    pythons: Mapping[str, str]
    format: str
    bars: bool
    keep: Path | None
    start_timeout: float

    @property
    def shape(self) -> LlamaShape:
        """Of the model."""
        return SHAPES[self.model_size]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = DESCRIPTION
    parser.add_argument(
        "--contenders",
        metavar="LIST",
        default=",".join(_USUAL),
        help=f"some of {', '.join(CONTENDERS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--model-size",
        choices=tuple(SHAPES),
        default="100m",
        help="a Llama with random weights of at least that many parameters (default: %(default)s)",
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contender (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=1, help="rounds before those that count (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=4, help="requests of a turn (default: %(default)s)")
    parser.add_argument("--concurrency", type=int, default=1, help="requests at the same time (default: %(default)s)")
    parser.add_argument("--prompt-tokens", type=int, default=512, help="of each request (default: %(default)s)")
    parser.add_argument("--output-tokens", type=int, default=24, help="of each request (default: %(default)s)")
    parser.add_argument(
        "--step-tokens",
        type=int,
        default=0,
        help="that an engine computes in one step: longer prompts are prefilled in chunks, and the tokens of different "
        "contenders are the same only as far as rounding permits (default: a whole prompt)",
    )
    parser.add_argument(
        "--shared-prefix", type=int, default=0, metavar="TOKENS", help="that all prompts begin with (default: none)"
    )
    parser.add_argument(
        "--waiting",
        choices=("auto", "spin", "sleep"),
        default="auto",
        help="how vLLM's processes wait for each other: spin, as it ships them, or sleep 0.2 ms at a time; "
        f"auto: sleep on fewer than {_MANY_CPUS} CPUs (default: %(default)s)",
    )
    parser.add_argument(
        "--apart",
        action="store_true",
        help="prefill engines have half of the CPUs, decode engines, routers and clients the others, as on machines of "
        "their own",
    )
    parser.add_argument("--lanes", metavar="LIST", default="", help="lanes that kvdirect may take (default: its own)")
    parser.add_argument(
        "--peer-python",
        action="append",
        default=[],
        metavar="nixl=PATH",
        help="a Python that has vLLM and NIXL (default: this one, or .venv-bench-serving-nixl's)",
    )
    parser.add_argument("--format", choices=FORMATS, default="table", help="(default: %(default)s)")
    parser.add_argument("--bars", action="store_true", help="judge docs/benchmarks.md's figures; exit status 1: missed")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="keep logs and model there, and write what `kvdirect trace` reads"
    )
    parser.add_argument(
        "--start-timeout", type=float, default=600.0, help="seconds for all engines to get ready (default: %(default)g)"
    )


def read_options(args: argparse.Namespace, known_lanes: Sequence[str]) -> Options:
    """Check what argparse left unchecked.

    Args:
        args: As parsed.
        known_lanes: Lanes that this version of kvtransfer has.

    Raises:
        BenchUsageError: Something is impossible; says what, and what would do.
    """
    for name, (low, high) in _LIMITS.items():
        if not low <= getattr(args, name) <= high:
            raise BenchUsageError(f"{_flag(name)} {getattr(args, name)}: expected {low} to {high}")
    if args.shared_prefix >= args.prompt_tokens:
        raise BenchUsageError(
            f"--shared-prefix {args.shared_prefix}: expected less than --prompt-tokens {args.prompt_tokens}"
        )
    if not 0 < args.start_timeout < 1e6:
        raise BenchUsageError(f"--start-timeout {args.start_timeout:g}: expected seconds above 0")
    if args.apart and len(os.sched_getaffinity(0)) < 2:
        raise BenchUsageError("--apart: expected 2 CPUs or more; this process may use one")
    contenders = _list("--contenders", args.contenders, CONTENDERS)
    if args.bars:
        _check_bars(contenders, args.model_size)
    return Options(
        contenders=contenders,
        model_size=args.model_size,
        dtype=args.dtype,
        rounds=args.rounds,
        warmup=args.warmup,
        requests=args.requests,
        concurrency=args.concurrency,
        prompt_tokens=args.prompt_tokens,
        output_tokens=args.output_tokens,
        step_tokens=args.step_tokens,
        shared_prefix=args.shared_prefix,
        waiting=_waiting(args.waiting),
        apart=args.apart,
        lanes=_list("--lanes", args.lanes, known_lanes) if args.lanes else (),
        pythons=parse_pythons(args.peer_python),
        format=args.format,
        bars=args.bars,
        keep=args.keep,
        start_timeout=args.start_timeout,
    )


def _waiting(word: str) -> str:
    if word != "auto":
        return word
    return "spin" if len(os.sched_getaffinity(0)) >= _MANY_CPUS else "sleep"


def _check_bars(contenders: Sequence[str], model_size: str) -> None:
    missing = [name for name in _USUAL if name not in contenders]
    if missing:
        raise BenchUsageError(f"--bars compares all of {', '.join(_USUAL)}; add {', '.join(missing)} to --contenders")
    if SHAPES[model_size].parameters < TARGETS_PARAMETERS:
        raise BenchUsageError(
            f"--bars is for models of at least {TARGETS_PARAMETERS} parameters, not --model-size {model_size}"
        )


def _list(flag: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    """The words of a list, each once."""
    words = dict.fromkeys(word.strip() for word in text.split(","))
    for word in words:
        if word not in known:
            raise BenchUsageError(f"{flag} {word or text}: expected some of {', '.join(known)}")
    return tuple(words)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
