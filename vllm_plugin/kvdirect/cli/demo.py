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
from typing import TYPE_CHECKING, Any

import httpx

from kvdirect.harness.accounting import PromptTokens
from kvdirect.harness.cache_geometry import AccountingError, CacheGeometry, cache_geometry, has_states, text_config
from kvdirect.harness.completions import Completion, Prompt, complete, demo_prompts, resume
from kvdirect.harness.model import TINY_MODELS, make_tiny_llama, make_tiny_model
from kvdirect.harness.outcome import COLUMNS, Outcome, check, row, verdict
from kvdirect.harness.processes import ManagedProcess, ProcessSet, StartError, router, say, vllm_engine

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from types import FrameType

CACHE_BYTES = 256 << 20
BLOCK_SIZE = 32
PROCESSOR = "kvdirect.harness.first_token:FirstToken"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `kvdirect demo`."""
    made = ", ".join(TINY_MODELS)
    parser.add_argument(
        "--model", default="", help=f"path or hub name, or one made on the spot: {made} (default: a tiny Llama)"
    )
    parser.add_argument(
        "--dtype", default="", choices=("float32", "bfloat16", "float16"), help="default: float32 where that can be had"
    )
    parser.add_argument(
        "--block-size", type=int, default=0, help=f"tokens a cache block (default: {BLOCK_SIZE}; with states vLLM's)"
    )
    parser.add_argument(
        "--reference",
        default="",
        choices=("whole", "resumed"),
        help="what the aggregated engine computes: prompts whole, or the last token alone, as a reader does; "
        "in less than float32 vLLM's kernels do not round alike (default: whole in float32, else resumed)",
    )
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
    plan = _plan(args, folder)
    pull_log = folder / "pulls.jsonl"
    pull_log.unlink(missing_ok=True)
    engines = _engines(args, plan, folder, pull_log)
    aggregated, _prefill, decode, front = engines
    say("starting three vLLM engines (aggregated, prefill, decode) and the router; this takes a minute or two")
    with ProcessSet(engines, deadline=args.start_timeout) as processes:
        geometry = cache_geometry(plan.config, decode.url, dtype=plan.dtype, cache_bytes=CACHE_BYTES)
        say(str(geometry))
        prompts = demo_prompts(geometry.block_size)
        say(f"{len(prompts)} prompts to the aggregated engine ({plan.reference}), then through prefill and decode")
        how = resume if plan.resumed else complete
        references = _ask_all(processes, how, aggregated.url, prompts, "reference", args.start_timeout)
        print(row(COLUMNS), flush=True)
        outcomes, complaints = _pull_all(
            processes, front.url, decode.url, prompts, references, geometry, pull_log, args.start_timeout
        )
    return verdict(outcomes, complaints)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to run, as the options and the model's configuration say."""

    model: str
    config: Any
    dtype: str
    block_size: int  # 0: vLLM's choice
    resumed: bool
    offline: bool

    @property
    def reference(self) -> str:
        return "the last token of each alone" if self.resumed else "each whole"


def _plan(args: argparse.Namespace, folder: Path) -> _Plan:
    model, dtype = args.model, args.dtype
    if not model:
        say("making a tiny Llama and a byte-level tokenizer (no download)")
        model = str(make_tiny_llama(folder / "tiny-llama"))
    elif model in TINY_MODELS:
        say(f"making {model} and a byte-level tokenizer (no download)")
        dtype = dtype or TINY_MODELS[model].dtype
        model = str(make_tiny_model(folder / model, model))
    elif "/" in model and model.startswith((".", "/", "~")) and not (Path(model) / "config.json").is_file():
        raise ValueError(f"--model {model}: no config.json there; name a model folder or a hub name")
    config = text_config(_model_folder(model))
    dtype = dtype or "float32"
    return _Plan(
        model,
        config,
        dtype,
        args.block_size or (0 if has_states(config) else BLOCK_SIZE),
        resumed=(args.reference or ("whole" if dtype == "float32" else "resumed")) == "resumed",
        offline=model != args.model,
    )


def _engines(args: argparse.Namespace, plan: _Plan, folder: Path, pull_log: Path) -> list[ManagedProcess]:
    options = [
        *("--dtype", plan.dtype, "--max-model-len", str(args.max_model_len)),
        *("--kv-cache-memory-bytes", str(CACHE_BYTES)),
        *(("--block-size", str(plan.block_size)) if plan.block_size else ()),
    ]

    def transfer(role: str, **extra: object) -> dict[str, object]:
        settings = {"require_lane": args.lane, **extra} if args.lane else extra
        return {"kv_connector": "kvdirect", "kv_role": role, "kv_port": 0, "kv_connector_extra_config": settings}

    def engine(name: str, *more: str, transfer: dict[str, object] | None = None) -> ManagedProcess:
        cut = [*options, *more]
        return vllm_engine(name, plan.model, folder, options=cut, transfer=transfer, offline=plan.offline)

    reader = transfer("kv_consumer", pull_log=str(pull_log), **({"fault": args.fault} if args.fault else {}))
    aggregated = engine("aggregated", *(("--logits-processors", PROCESSOR) if plan.resumed else ()))
    prefill = engine("prefill", transfer=transfer("kv_producer"))
    decode = engine("decode", transfer=reader)
    return [aggregated, prefill, decode, router(prefill, decode, folder)]


def _model_folder(model: str) -> Path:
    """Where the model's config.json is: the folder itself, or its place in the hub's cache."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download  # noqa: PLC0415  (comes with vLLM, needed for hub names only)

    return Path(snapshot_download(model, allow_patterns=["config.json"]))


def _ask_all(
    processes: ProcessSet,
    how: Callable[..., Completion],
    url: str,
    prompts: list[Prompt],
    tag: str,
    timeout: float,
) -> list[Completion]:
    """All prompts in order; those of one batch at the same time."""
    answers: list[Completion] = []
    for _, batch in itertools.groupby(prompts, key=lambda prompt: prompt.batch):
        together = list(batch)
        numbers = range(len(answers), len(answers) + len(together))
        calls = [
            partial(how, url, prompt.text, f"{tag}-{number:03d}", timeout=timeout)
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
        answers = _ask_all(processes, complete, front, [prompt for prompt, _ in pairs], tag, timeout)
        tokens = _counted_since(decode, before, sum(answer.prompt_tokens for answer in answers))
        made = [
            Outcome(prompt, reference, answer, _pull_record(pull_log, f"{tag}-{number:03d}"))
            for number, ((prompt, reference), answer) in enumerate(zip(pairs, answers, strict=True))
        ]
        complaints += check(made, tokens, geometry)
        for outcome in made:
            print(row(outcome.cells(tokens if len(made) == 1 else None)), flush=True)
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
