# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Writes the table of step times from aiconfigurator-core's measurements, and says how far the table is from them."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvdirect_bench.command import Parser, say
from kvdirect_bench.errors import BenchError

from .oracle import TABLE, load, seconds

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

MODEL, SYSTEM, BACKEND, RANKS = "meta-llama/Meta-Llama-3.1-70B", "h100_sxm", "vllm", 8
_LAYERS, _KV_HEADS, _HEAD, _BYTES = 80, 8, 128, 2
# What a GPU of 80 GB gives vLLM at its default share, less its part of the weights and 4 GB for activations and graphs.
_GPU, _SHARE, _WEIGHTS, _ACTIVATIONS = 80e9, 0.9, 141.1e9, 4e9
_TOKENS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192,
           12288, 16384, 24576, 32768, 49152, 65536)  # fmt: skip
_CHUNKS = (1, 64, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_CONTEXTS = (0, 512, 2048, 4096, 8192, 16384, 24576, 32768, 65536)
_SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256)
_LENGTHS = (1, 256, 1024, 2048, 4096, 8192, 12288, 16384, 24576, 32768, 65536)
# Between the table's places: where it is compared with what it was made from.
_TRIED_PREFILL = ((100, 0), (700, 700), (1500, 3000), (3000, 0), (5000, 10000), (8192, 12000), (12000, 0), (30000, 0))
_TRIED_DECODE = ((3, 700), (6, 5000), (12, 10000), (20, 700), (40, 9000), (80, 3000), (110, 14000), (20, 30000))
_ALLOWED = 0.05


def main(argv: Sequence[str] | None = None) -> int:
    """Write, or with --check compare; 0: the table is within five percent of its source wherever it is tried."""
    parser = Parser(prog="kvdirect_bench.cluster.fit", description=__doc__, allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="write nothing; compare the table that is there")
    parser.add_argument("--out", type=Path, default=TABLE, metavar="FILE", help="(default: beside this module)")
    return parser.main(_run, argv)


def _run(args: argparse.Namespace) -> int:
    handle = _compile()
    if not args.check:
        args.out.write_text(json.dumps(_table(handle)).replace("], [", "],\n[") + "\n")
        say(f"wrote {args.out}")
    worst = 0.0
    for what, ours, theirs in _compared(handle, args.out):
        worst = max(worst, abs(ours / theirs - 1))
        say(f"{what}: {ours * 1e3:.2f} ms by the table, {theirs * 1e3:.2f} ms by aiconfigurator-core")
    print(f"the table differs from aiconfigurator-core by {worst:.1%} at most")
    return 0 if worst <= _ALLOWED else 1


def _compile() -> Any:  # noqa: ANN401  (its wheel may not be there, so its types are not either)
    try:
        engine = importlib.import_module("aiconfigurator_core.sdk.engine")
    except ImportError as error:
        raise BenchError(
            f"aiconfigurator-core is not installed ({error}); `make simulate` makes an environment with it"
        ) from error
    return engine.EngineHandle.compile(MODEL, SYSTEM, BACKEND, tp_size=RANKS)


def _table(handle: Any) -> dict[str, Any]:  # noqa: ANN401
    version = importlib.import_module("importlib.metadata").version("aiconfigurator-core")
    per_token = 2 * _LAYERS * _KV_HEADS * _HEAD * _BYTES
    return {
        "model": f"{MODEL}, {RANKS} x {SYSTEM}, {BACKEND} (aiconfigurator-core {version})",
        "kv_bytes_per_token": per_token,
        "kv_tokens": int((_GPU * _SHARE - _WEIGHTS / RANKS - _ACTIVATIONS) * RANKS / per_token),
        "dense": {"tokens": _TOKENS, "milliseconds": [_rounded(_dense(handle, tokens)) for tokens in _TOKENS]},
        "prefill": {
            "chunks": _CHUNKS,
            "contexts": _CONTEXTS,
            "milliseconds": [[_rounded(_prefill(handle, chunk, before)) for before in _CONTEXTS] for chunk in _CHUNKS],
        },
        "decode": {
            "sequences": _SEQUENCES,
            "contexts": _LENGTHS,
            "milliseconds": [[_rounded(_decode(handle, count, length)) for length in _LENGTHS] for count in _SEQUENCES],
        },
    }


def _rounded(milliseconds: float) -> float:
    """Differences of measurements may fall below zero."""
    return round(max(0.0, milliseconds), 4)


def _dense(handle: Any, tokens: int) -> float:  # noqa: ANN401
    """What is not attention. Steps of few tokens are decoding steps, which run other kernels than long ones."""
    if tokens <= _SEQUENCES[-1]:
        return float(handle.decode_step_latency(tokens, 256, 2) - _decode(handle, tokens, 256))
    return float(handle.mixed_step_breakdown(tokens, 0, tokens, 2)[1])


def _prefill(handle: Any, chunk: int, context: int) -> float:  # noqa: ANN401
    whole = handle.predict_prefill_latency(1, chunk + context, context)
    return float(whole - handle.mixed_step_breakdown(chunk, 0, chunk, 2)[1])


def _decode(handle: Any, sequences: int, length: int) -> float:  # noqa: ANN401
    return float(handle.mixed_step_breakdown(256, sequences, length, 2)[3])


def _compared(handle: Any, file: Path) -> Iterator[tuple[str, float, float]]:  # noqa: ANN401
    table = load(file)
    for chunk, before in _TRIED_PREFILL:
        theirs = handle.predict_prefill_latency(1, chunk + before, before) / 1e3
        yield f"prefill of {chunk} behind {before}", seconds(table, [(chunk, before)], 0, 0), theirs
    for count, length in _TRIED_DECODE:
        theirs = handle.decode_step_latency(count, length, 2) / 1e3
        yield f"decoding {count} of {length}", seconds(table, [], count, length), theirs
    for chunk, count in ((2048, 12), (1000, 50), (8192, 30)):
        theirs = handle.mixed_step_latency(chunk, count, 8192, 2) / 1e3
        # Its chunks are those of a prompt of 8192 on average: half of that, less half a chunk, stands before each.
        ours = seconds(table, [(chunk, (8192 - chunk) // 2)], count, 8192)
        yield f"{chunk} of a prompt of 8192 beside {count}", ours, theirs


if __name__ == "__main__":
    sys.exit(main())
