# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""`kvdirect demo`: one vLLM engine prefills, another pulls the KV cache and decodes, a third is the reference."""

from __future__ import annotations

import itertools
import json
import signal
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from kvdirect.harness.accounting import AccountingError, CacheGeometry, PromptTokens, cache_geometry
from kvdirect.harness.completions import Completion, Prompt, complete, demo_prompts
from kvdirect.harness.model import make_tiny_llama
from kvdirect.harness.processes import ManagedProcess, ProcessSet, StartError, router, say, vllm_engine

if TYPE_CHECKING:
    import argparse
    from types import FrameType

CACHE_BYTES = 256 << 20
COLUMNS = ("prompt", "tokens", "hits", "pulled", "blocks", "runs", "lane", "pull ms", "TTFT ms", "identical")
WIDTHS = (22, 7, 6, 11, 7, 5, 8, 8, 8, 9)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One prompt's completion through the pull, the reference, and the reader's own record of the pull."""

    prompt: Prompt
    reference: Completion
    pulled: Completion
    record: dict[str, object]

    @property
    def identical(self) -> bool:
        """Token by token."""
        return self.reference.tokens == self.pulled.tokens

    def number(self, key: str) -> float:
        """A numeric field of the pull's record."""
        value = self.record[key]
        if not isinstance(value, int | float):
            raise AccountingError(f"the pull log has {key}={value!r} for {self.prompt.name!r}, expected a number")
        return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `kvdirect demo`."""
    parser.add_argument("--model", default="", help="path or hub name (default: a tiny Llama made on the spot)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--block-size", type=int, default=32, help="tokens a cache block (default: %(default)s)")
    parser.add_argument("--max-model-len", type=int, default=4096)
    parser.add_argument("--lane", default="", help="require this lane and refuse any other")
    parser.add_argument("--fault", default="", choices=("", "zero", "permute", "no_pull"), help="negative control")
    parser.add_argument("--start-timeout", type=float, default=600.0, help="seconds for all engines to get ready")
    parser.add_argument("--keep", type=Path, help="keep logs, model and pull log in this folder")


def run(args: argparse.Namespace) -> int:
    """Run it; the exit status is 0 only if every completion is identical and every byte is accounted for."""
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="kvdirect-demo-") as scratch:
            folder = args.keep or Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            return _run(args, folder.resolve())
    except (StartError, AccountingError, ValueError, httpx.HTTPError) as error:
        say(f"failed: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; everything it started has been stopped")
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(args: argparse.Namespace, folder: Path) -> int:
    if args.model:
        model = args.model
        if "/" in model and model.startswith((".", "/", "~")) and not (Path(model) / "config.json").is_file():
            raise ValueError(f"--model {model}: no config.json there; name a model folder or a hub name")
    else:
        say("making a tiny Llama and a byte-level tokenizer (no download)")
        model = str(make_tiny_llama(folder / "tiny-llama"))
    pull_log = folder / "pulls.jsonl"
    pull_log.unlink(missing_ok=True)
    engines = _engines(args, model, folder, pull_log)
    aggregated, _prefill, decode, front = engines
    say("starting three vLLM engines (aggregated, prefill, decode) and the router; this takes a minute or two")
    with ProcessSet(engines, deadline=args.start_timeout) as processes:
        geometry = cache_geometry(_model_folder(model), decode.url, dtype=args.dtype, cache_bytes=CACHE_BYTES)
        say(f"every block is {geometry.block_size} tokens and {geometry.block_bytes} bytes over all layers")
        prompts = demo_prompts(geometry.block_size)
        say(f"{len(prompts)} prompts to the aggregated engine, then through prefill and decode")
        references = _ask_all(processes, aggregated.url, prompts, "reference", args.start_timeout)
        print(_row(COLUMNS), flush=True)
        outcomes, complaints = _pull_all(
            processes, front.url, decode.url, prompts, references, geometry, pull_log, args.start_timeout
        )
    return _verdict(outcomes, complaints)


def _engines(args: argparse.Namespace, model: str, folder: Path, pull_log: Path) -> list[ManagedProcess]:
    options = [
        *("--dtype", args.dtype, "--block-size", str(args.block_size), "--max-model-len", str(args.max_model_len)),
        *("--kv-cache-memory-bytes", str(CACHE_BYTES)),
    ]
    offline = not args.model

    def transfer(role: str, **extra: object) -> dict[str, object]:
        settings = {"require_lane": args.lane, **extra} if args.lane else extra
        return {"kv_connector": "kvdirect", "kv_role": role, "kv_port": 0, "kv_connector_extra_config": settings}

    reader = transfer("kv_consumer", pull_log=str(pull_log), **({"fault": args.fault} if args.fault else {}))
    aggregated = vllm_engine("aggregated", model, folder, options=options, offline=offline)
    prefill = vllm_engine("prefill", model, folder, options=options, transfer=transfer("kv_producer"), offline=offline)
    decode = vllm_engine("decode", model, folder, options=options, transfer=reader, offline=offline)
    return [aggregated, prefill, decode, router(prefill, decode, folder)]


def _model_folder(model: str) -> Path:
    """Where the model's config.json is: the folder itself, or its place in the hub's cache."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download  # noqa: PLC0415  (comes with vLLM, needed for hub names only)

    return Path(snapshot_download(model, allow_patterns=["config.json"]))


def _ask_all(processes: ProcessSet, url: str, prompts: list[Prompt], tag: str, timeout: float) -> list[Completion]:
    """All prompts in order; those of one batch at the same time."""
    answers: list[Completion] = []
    for _, batch in itertools.groupby(prompts, key=lambda prompt: prompt.batch):
        together = list(batch)
        numbers = range(len(answers), len(answers) + len(together))
        calls = [
            partial(complete, url, prompt.text, f"{tag}-{number:03d}", timeout=timeout)
            for number, prompt in zip(numbers, together, strict=True)
        ]
        answers += processes.run(calls, at_once=len(calls))
    return answers


def _pull_all(
    processes: ProcessSet,
    front: str,
    decode: str,
    prompts: list[Prompt],
    references: list[Completion],
    geometry: CacheGeometry,
    pull_log: Path,
    timeout: float,
) -> tuple[list[Outcome], list[str]]:
    """Send batch after batch through the router, compare what moved with what had to, and print a row for each."""
    outcomes: list[Outcome] = []
    complaints: list[str] = []
    for _, batch in itertools.groupby(zip(prompts, references, strict=True), key=lambda pair: pair[0].batch):
        pairs = list(batch)
        before = PromptTokens.read(decode)
        tag = f"demo{len(outcomes):03d}"
        answers = _ask_all(processes, front, [prompt for prompt, _ in pairs], tag, timeout)
        tokens = _counted_since(decode, before, sum(answer.prompt_tokens for answer in answers))
        made = [
            Outcome(prompt, reference, answer, _pull_record(pull_log, f"{tag}-{number:03d}"))
            for number, ((prompt, reference), answer) in enumerate(zip(pairs, answers, strict=True))
        ]
        complaints += _check(made, tokens, geometry)
        for outcome in made:
            print(_row(_cells(outcome, tokens if len(made) == 1 else None)), flush=True)
        outcomes += made
    return outcomes, complaints


def _counted_since(url: str, before: PromptTokens, prompt_tokens: int) -> PromptTokens:
    """The engine's counters since `before`; they may follow the last token by a moment."""
    deadline = time.monotonic() + 10
    while True:
        since = PromptTokens.read(url) - before
        if since.all >= prompt_tokens or time.monotonic() > deadline:
            return since
        time.sleep(0.1)


def _pull_record(pull_log: Path, request_id: str) -> dict[str, object]:
    """What the reader wrote about this request. vLLM puts a prefix and a suffix around a request's id."""
    lines = pull_log.read_text().splitlines() if pull_log.exists() else []
    records: list[dict[str, object]] = [json.loads(line) for line in lines]
    mine = [record for record in records if request_id in str(record["request_id"])]
    if len(mine) != 1:
        raise AccountingError(f"the pull log has {len(mine)} pulls for request {request_id}, expected 1")
    return mine[0]


def _check(outcomes: list[Outcome], tokens: PromptTokens, geometry: CacheGeometry) -> list[str]:
    """Complaints about a batch: bytes that differ from the geometry's, or prompt tokens computed again."""
    names = " and ".join(repr(outcome.prompt.name) for outcome in outcomes)
    whole = sum(geometry.expected_bytes(outcome.pulled.prompt_tokens, 0) for outcome in outcomes)
    expected = whole - tokens.local_hit // geometry.block_size * geometry.block_bytes
    moved = sum(int(outcome.number("bytes")) for outcome in outcomes)
    complaints = []
    if moved != expected:
        complaints.append(f"{names}: {moved} bytes pulled, but the cache's geometry says {expected}")
    if tokens.computed != len(outcomes):
        complaints.append(
            f"{names}: decode computed {tokens.computed} prompt tokens, expected {len(outcomes)} (the last of each)"
        )
    return complaints


def _cells(outcome: Outcome, tokens: PromptTokens | None) -> tuple[str, ...]:
    hits = str(tokens.local_hit) if tokens else "-"
    return (
        outcome.prompt.name,
        str(outcome.pulled.prompt_tokens),
        hits,
        str(int(outcome.number("bytes"))),
        str(int(outcome.number("blocks"))),
        str(int(outcome.number("runs"))),
        str(outcome.record["lane"]),
        f"{outcome.number('seconds') * 1e3:.2f}",
        f"{outcome.pulled.ttft * 1e3:.1f}",
        "yes" if outcome.identical else "NO",
    )


def _row(cells: tuple[str, ...]) -> str:
    first, *rest = zip(cells, WIDTHS, strict=True)
    return f"  {first[0]:<{first[1]}}" + "".join(f"{cell:>{width + 1}}" for cell, width in rest)


def _verdict(outcomes: list[Outcome], complaints: list[str]) -> int:
    for complaint in complaints:
        say(f"WRONG: {complaint}")
    same = sum(outcome.identical for outcome in outcomes)
    lanes = "+".join(sorted({str(outcome.record["lane"]) for outcome in outcomes}))
    mebibytes = sum(outcome.number("bytes") for outcome in outcomes) / (1 << 20)
    print(f"demo: {same} of {len(outcomes)} completions identical, {mebibytes:.1f} MiB pulled over {lanes}", flush=True)
    return 0 if same == len(outcomes) and not complaints else 1
