# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""LoRA: what was prefilled under one adapter is pulled for requests under that adapter, and for no others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from engines import (
    ASK_TO_KEEP,
    BLOCK,
    MODEL_NAME,
    ONE_PROCESS,
    Engine,
    Spec,
    ended_leases,
    name,
    only_pull,
    text,
    tokens,
    wait_until_ended,
)
from safetensors.torch import save_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pool import EnginePool

LORA = (("--enable-lora", "--max-loras=3"), ("--max-lora-rank", "8"))
ENVIRONMENT = (*ONE_PROCESS, ("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1"))
OWNER = Spec("kv_producer", options=LORA, environment=ENVIRONMENT)
READER = Spec("kv_consumer", options=LORA, environment=ENVIRONMENT)

pytestmark = [pytest.mark.vllm, pytest.mark.engines(OWNER, READER)]


def write_adapter(folder: Path, model: Path, seed: int) -> str:
    """Random weights for all of attention, strong enough to change completions; the folder, as its path."""
    config = json.loads((model / "config.json").read_text())
    hidden, head = config["hidden_size"], config["head_dim"]
    heads, kv_heads = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    sizes = {"q": (hidden, heads), "k": (hidden, kv_heads), "v": (hidden, kv_heads), "o": (heads, hidden)}
    generator, weights = torch.Generator().manual_seed(seed), {}
    for layer in range(config["num_hidden_layers"]):
        for key, (inner, outer) in sizes.items():
            module = f"base_model.model.model.layers.{layer}.self_attn.{key}_proj"
            weights[f"{module}.lora_A.weight"] = torch.randn(8, inner, generator=generator) * 0.1
            weights[f"{module}.lora_B.weight"] = torch.randn(outer, 8, generator=generator) * 0.1
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 8, "bias": "none"}
    settings |= {"target_modules": [f"{key}_proj" for key in sizes]}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return str(folder)


def load(adapter: str, path: str, *engines: Engine) -> None:
    for engine in engines:
        body = {"lora_name": adapter, "lora_path": path}
        answer = engine.post("/v1/load_lora_adapter", body, name("load"))
        assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def pair(pool: EnginePool, tmp_path_factory: pytest.TempPathFactory) -> Sequence[Engine]:
    """Owner and reader; both have "sql" and "chat", and each has its own idea of "replaced"."""
    folder = tmp_path_factory.mktemp("adapters")
    sql, chat = (write_adapter(folder / which, pool.model, seed) for seed, which in enumerate(("sql", "chat")))
    owner, reader = pool.get(OWNER, READER)
    load("sql", sql, owner, reader)
    load("chat", chat, owner, reader)
    load("replaced", sql, owner)
    load("replaced", chat, reader)
    return owner, reader


@pytest.mark.parametrize(
    ("made", "asked", "pulled"),
    [
        ("sql", "sql", True),
        (MODEL_NAME, MODEL_NAME, True),
        ("sql", "chat", False),
        ("sql", MODEL_NAME, False),
        (MODEL_NAME, "sql", False),
        ("replaced", "replaced", False),
    ],
)
def test_a_prefill_is_used_under_its_own_adapter_only(
    pair: Sequence[Engine], made: str, asked: str, pulled: bool
) -> None:
    """While only tokens were in the digest every one was pulled, and completions were of neither adapter."""
    owner, reader = pair
    prompt, request_id = text(5 * BLOCK + 3), name("adapter")
    completed = ended_leases(owner, "completed")
    before = reader.metric("vllm:kvdirect_num_failed_transfers_total", reason="other_prompt")
    first = owner.complete(prompt, request_id, max_tokens=1, model=made, kv_transfer_params=ASK_TO_KEEP)
    answer = reader.complete(prompt, request_id, model=asked, kv_transfer_params=first["kv_transfer_params"])
    at_the_owner = "chat" if asked == "replaced" else asked
    assert tokens(answer) == tokens(owner.complete(prompt, name("reference"), model=at_the_owner))
    wait_until_ended(owner, "completed", completed + 1)
    if pulled:
        assert only_pull(reader, request_id)["status"] == "ok"
    else:
        assert reader.pulls(request_id) == []
        assert reader.metric("vllm:kvdirect_num_failed_transfers_total", reason="other_prompt") == before + 1
    assert tokens(reader.complete(prompt, name("again"), model=asked)) == tokens(answer), "nothing wrong is cached"


def test_adapters_change_completions(pair: Sequence[Engine]) -> None:
    """Else the tokens above would prove nothing."""
    owner, _ = pair
    prompt = text(5 * BLOCK + 3)
    answers = [tokens(owner.complete(prompt, name("control"), model=which)) for which in (MODEL_NAME, "sql", "chat")]
    assert len(set(map(tuple, answers))) == 3
