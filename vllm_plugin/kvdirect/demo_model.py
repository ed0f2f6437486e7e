# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A model that needs no download: a tiny Llama with seeded random weights and a byte-level tokenizer."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SPECIAL_TOKENS = ("<s>", "</s>", "<pad>")
VOCABULARY = 320
# Rendered by /v1/chat/completions; one line a message.
CHAT_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def make_tiny_llama(folder: Path, *, seed: int = 20250114, dtype: str = "float32", layers: int = 4) -> Path:
    """Write config, weights and tokenizer to `folder`; an existing complete folder is kept.

    float32 by default, so that prefix caching and chunking, which change the order of additions, do not flip a token.
    One token is one byte of text, so a prompt of n ASCII characters has n tokens. The weights are scaled up from
    the usual initialisation: a random model this small otherwise repeats one token whatever its cache holds, and
    comparing completions would prove nothing.

    Returns:
        The folder, for `--model`.
    """
    if (folder / "config.json").exists() and (folder / "tokenizer.json").exists():
        return folder
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    _write_tokenizer(unfinished)
    _write_weights(unfinished, seed, dtype, layers)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return folder


def _write_tokenizer(folder: Path) -> None:
    import tokenizers  # noqa: PLC0415  (only here; comes with vLLM)
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = [*SPECIAL_TOKENS, *alphabet]
    model = tokenizers.models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    special = dict(zip(("bos_token", "eos_token", "pad_token"), SPECIAL_TOKENS, strict=True))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=8192, **special)
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(str(folder))


def _write_weights(folder: Path, seed: int, dtype: str, layers: int) -> None:
    import torch  # noqa: PLC0415
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=8192,
        initializer_range=0.12,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(str(folder))
