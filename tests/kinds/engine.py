# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""One vLLM engine in one process, without a server: takes JSON lines on stdin, answers on stdout (row_engines.py).

Between commands it goes on stepping, as an engine behind a server does: the end of a request is told in the next step.
"""

from __future__ import annotations

import json
import os
import select
import sys
from typing import Any

# What vLLM prints goes where its log goes; answers have a descriptor of their own.
_ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

import torch  # noqa: E402
from images import pixels  # noqa: E402
from vllm import SamplingParams  # noqa: E402
from vllm.engine.arg_utils import EngineArgs  # noqa: E402
from vllm.v1.engine.llm_engine import LLMEngine  # noqa: E402

from kvdirect import plugin  # noqa: E402
from kvdirect.harness.first_token import FirstToken  # noqa: E402

LOGPROBS = 2
_PAUSE = 0.005


def start(options: dict[str, Any]) -> LLMEngine:
    torch.cpu._init_amx()  # some of vLLM's kernels use it without asking the kernel, which ends the process
    plugin.register()
    processors = [] if "speculative_config" in options else [FirstToken]
    usual = {"skip_tokenizer_init": True, "logits_processors": processors, "worker_extension_cls": "inside.Inside"}
    return LLMEngine.from_engine_args(EngineArgs(**(usual | options)))


def groups(engine: LLMEngine) -> list[dict[str, Any]]:
    """What vLLM made of the model: a cache group's layers, block size and kind."""
    scheduler = engine.engine_core.engine_core.scheduler  # type: ignore[attr-defined]
    return [
        {
            "layers": list(group.layer_names),
            "block_size": group.kv_cache_spec.block_size,
            "kind": type(group.kv_cache_spec).__name__,
        }
        for group in scheduler.kv_cache_config.kv_cache_groups
    ]


def ask(engine: LLMEngine, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Their completions, greedy, in order."""
    for request in requests:
        extra = {key: request[key] for key in ("kv_transfer_params", "first") if request.get(key) is not None}
        params = SamplingParams(
            max_tokens=request["max_tokens"],
            temperature=0.0,
            ignore_eos=True,
            detokenize=False,
            logprobs=LOGPROBS if request.get("logprobs", True) else None,
            extra_args=extra,
        )
        prompt: dict[str, Any] = {"prompt_token_ids": request["prompt"]}
        if images := request.get("images"):
            prompt["multi_modal_data"] = {"image": [pixels(seed) for seed in images]}
        engine.add_request(request["id"], prompt, params)
    answers: dict[str, dict[str, Any]] = {}
    while len(answers) < len(requests):
        for output in engine.step():
            if output.finished:
                [one] = output.outputs
                chosen = [step[token].logprob for step, token in zip(one.logprobs or [], one.token_ids, strict=False)]
                answers[output.request_id] = {
                    "tokens": list(one.token_ids),
                    "logprobs": chosen,
                    "params": output.kv_transfer_params,
                    "cached": output.num_cached_tokens,
                    "prompt_tokens": len(output.prompt_token_ids or ()),
                    "reason": one.finish_reason,
                }
    return [answers[request["id"]] for request in requests]


def held(engine: LLMEngine) -> dict[str, int]:
    """What is not free."""
    scheduler = engine.engine_core.engine_core.scheduler  # type: ignore[attr-defined]
    pool = scheduler.kv_cache_manager.block_pool
    return {
        "blocks": pool.num_gpu_blocks - 1 - pool.get_num_free_blocks(),
        "requests": len(scheduler.requests),
    }


def main() -> None:
    engine = start(json.loads(sys.stdin.readline()))
    print(json.dumps({"groups": groups(engine)}), file=_ANSWERS)
    while True:
        if not select.select([sys.stdin], [], [], _PAUSE)[0]:
            engine.step()
            continue
        line = sys.stdin.readline()
        if not line:
            break
        command = json.loads(line)
        answer: Any = None
        if command["do"] == "ask":
            answer = ask(engine, command["requests"])
        elif command["do"] == "reset":
            answer = engine.reset_prefix_cache()
        elif command["do"] == "inside":
            answer = engine.collective_rpc(command["method"], args=tuple(command["arguments"]))
        elif command["do"] == "held":
            answer = held(engine)
        print(json.dumps(answer), file=_ANSWERS)
    os._exit(0)  # nothing of it is worth waiting for


if __name__ == "__main__":
    main()
