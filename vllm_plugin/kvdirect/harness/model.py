# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Models that need no download: seeded random weights and a byte-level tokenizer."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

SPECIAL_TOKENS = ("<s>", "</s>", "<pad>")
VOCABULARY = 320
# Rendered by /v1/chat/completions; one line a message.
CHAT_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
SEED = 20250114


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

    @property
    def fields(self) -> dict[str, Any]:
        """As a configuration of transformers says it."""
        return {
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_size,
            "initializer_range": self.spread,
        }


# Those with a number have the layers of SmolLM2-135M and -360M; the vocabulary is ours, so they are that much smaller.
SHAPES = {
    "tiny": LlamaShape(layers=4, hidden=256, intermediate=512, heads=4, kv_heads=2, spread=0.12),
    "100m": LlamaShape(layers=30, hidden=576, intermediate=1536, heads=9, kv_heads=3, spread=0.08),
    "300m": LlamaShape(layers=32, hidden=960, intermediate=2560, heads=15, kv_heads=5, spread=0.08),
}


@dataclass(frozen=True, slots=True)
class Model:
    """A model's architecture and dimensions; `write_model` draws its weights.

    Attributes:
        configuration: Its class in transformers.
        fields: What that configuration says.
        dtype: What vLLM's kernels for a CPU compute it in.
        made_as: The class in transformers that has its weights, where that has another name.
    """

    architecture: str
    configuration: str
    fields: Mapping[str, Any]
    dtype: str = "float32"
    made_as: str = ""


# What the configurations of small ones have in common.
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "initializer_range": SHAPES["tiny"].spread,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "tie_word_embeddings": False,
}
WINDOW = 96
# Layers as gpt-oss has them, windows with sinks and full attention in turn; and as Qwen3-Next and Qwen3.5 have them.
TINY_MODELS = {
    "tiny-gpt-oss": Model(
        "GptOssForCausalLM",
        "GptOssConfig",
        COMMON
        | {
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "sliding_window": WINDOW,
            "max_position_embeddings": 131072,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "intermediate_size": 64,
        },
    ),
    "tiny-qwen3-next": Model(
        "Qwen3NextForCausalLM",
        "Qwen3NextConfig",
        COMMON
        | {
            "layer_types": ["linear_attention"] * 3 + ["full_attention"],
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "shared_expert_intermediate_size": 64,
            "linear_key_head_dim": 64,
            "linear_value_head_dim": 64,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_conv_kernel_dim": 4,
        },
        dtype="bfloat16",
    ),
}


def make_tiny_llama(folder: Path, *, seed: int = SEED, dtype: str = "float32", layers: int = 4) -> Path:
    """`make_llama` of the smallest shape, which also decodes quickly on a CPU."""
    return make_llama(folder, dataclasses.replace(SHAPES["tiny"], layers=layers), seed=seed, dtype=dtype)


def make_llama(folder: Path, shape: LlamaShape, *, seed: int = SEED, dtype: str = "float32") -> Path:
    """Write config, weights and tokenizer to `folder`; an existing complete folder is kept.

    float32 by default, so that prefix caching and chunking, which change the order of additions, do not flip a token.
    One token is one byte of text, so a prompt of n ASCII characters has n tokens.

    Returns:
        The folder, for `--model`.
    """
    model = Model("LlamaForCausalLM", "LlamaConfig", COMMON | shape.fields, dtype)
    return _make(folder, lambda unfinished: write_model(unfinished, model, seed=seed))


def make_tiny_model(folder: Path, name: str, *, seed: int = SEED) -> Path:
    """As `make_llama`, the one of TINY_MODELS that has this name."""
    return _make(folder, lambda unfinished: write_model(unfinished, TINY_MODELS[name], seed=seed))


def _make(folder: Path, write_weights: Callable[[Path], None]) -> Path:
    from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415

    disable_progress_bar()
    if (folder / "config.json").exists() and (folder / "tokenizer.json").exists():
        return folder
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    write_tokenizer(unfinished)
    write_weights(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """Beside a model of VOCABULARY tokens, so that servers can be asked in text."""
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


def write_model(folder: Path, model: Model, *, seed: int = SEED) -> None:
    """Its configuration, and weights drawn from this seed."""
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    config = getattr(transformers, model.configuration)(**model.fields)
    torch.manual_seed(seed)
    made = getattr(transformers, model.made_as or model.architecture)(config)
    made.to(getattr(torch, model.dtype)).save_pretrained(str(folder))
    config.architectures = [model.architecture]  # that of what it was made as has been written
    config.save_pretrained(str(folder))
