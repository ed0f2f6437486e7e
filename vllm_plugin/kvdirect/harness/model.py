# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Models that need no download: Llamas with seeded random weights and a byte-level tokenizer."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SPECIAL_TOKENS = ("<s>", "</s>", "<pad>")
VOCABULARY = 320
# Rendered by /v1/chat/completions; one line a message.
CHAT_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
_SEED = 20250114


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """A Llama's dimensions.

    Attributes:
        spread: Standard deviation of the weights, more than is usual: a random model otherwise repeats one or two
            tokens whatever its cache holds, and comparing completions would prove nothing.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    spread: float
    head_size: int = 64

    @property
    def parameters(self) -> int:
        """Weights in all: those of attention, of the MLP and of the norms, embedding and output."""
        attention = 2 * self.hidden * (self.heads + self.kv_heads) * self.head_size
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.layers * layer + self.hidden + 2 * VOCABULARY * self.hidden


# Those with a number have the layers of SmolLM2-135M and -360M; the vocabulary is ours, so they are that much smaller.
SHAPES = {
    "tiny": LlamaShape(layers=4, hidden=256, intermediate=512, heads=4, kv_heads=2, spread=0.12),
    "100m": LlamaShape(layers=30, hidden=576, intermediate=1536, heads=9, kv_heads=3, spread=0.08),
    "300m": LlamaShape(layers=32, hidden=960, intermediate=2560, heads=15, kv_heads=5, spread=0.08),
}


def make_tiny_llama(folder: Path, *, seed: int = _SEED, dtype: str = "float32", layers: int = 4) -> Path:
    """`make_llama` of the smallest shape, which also decodes quickly on a CPU."""
    return make_llama(folder, dataclasses.replace(SHAPES["tiny"], layers=layers), seed=seed, dtype=dtype)


def make_llama(folder: Path, shape: LlamaShape, *, seed: int = _SEED, dtype: str = "float32") -> Path:
    """Write config, weights and tokenizer to `folder`; an existing complete folder is kept.

    float32 by default, so that prefix caching and chunking, which change the order of additions, do not flip a token.
    One token is one byte of text, so a prompt of n ASCII characters has n tokens.

    Returns:
        The folder, for `--model`.
    """
    if (folder / "config.json").exists() and (folder / "tokenizer.json").exists():
        return folder
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    _write_tokenizer(unfinished)
    _write_weights(unfinished, seed, dtype, shape)
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


def _write_weights(folder: Path, seed: int, dtype: str, shape: LlamaShape) -> None:
    import torch  # noqa: PLC0415
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
        max_position_embeddings=8192,
        initializer_range=shape.spread,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(str(folder))
