# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Tiny models of every architecture whose cache is of a kind of its own: random weights, no download."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kvdirect.harness.model import COMMON, SEED, SHAPES, TINY_MODELS, VOCABULARY, WINDOW, Model, write_model

if TYPE_CHECKING:
    from pathlib import Path

CHUNK = 128
SPREAD = SHAPES["tiny"].spread
# No test's prompt is longer.
POSITIONS = 4096
ALTERNATING = ["sliding_attention", "full_attention"] * 2

# With what they say beyond the common; gpt-oss and Qwen3-Next are those of `kvdirect demo`.
_MODELS = (
    *TINY_MODELS.values(),
    Model("LlamaForCausalLM", "LlamaConfig", {}),
    Model(
        "MiMoForCausalLM",
        "Qwen2Config",
        {"num_nextn_predict_layers": 1, "hidden_size": 256},
        made_as="Qwen2ForCausalLM",
    ),
    Model(
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {"layer_types": ALTERNATING, "sliding_window": WINDOW, "query_pre_attn_scalar": 64},
    ),
    Model("MistralForCausalLM", "MistralConfig", {"sliding_window": WINDOW}),
    Model(
        "DeepseekV2ForCausalLM",
        "DeepseekV2Config",
        {
            "kv_lora_rank": 512,
            "q_lora_rank": None,
            "qk_rope_head_dim": 64,
            "qk_nope_head_dim": 32,
            "v_head_dim": 32,
            "num_key_value_heads": 4,
            "first_k_dense_replace": 4,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "moe_intermediate_size": 64,
            "num_experts_per_tok": 2,
            "head_dim": 64,
        },
    ),
    Model(
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        {
            "attention_chunk_size": CHUNK,
            "layer_types": ["chunked_attention", "full_attention"] * 2,
            "no_rope_layers": [1, 0] * 2,
            "num_local_experts": 4,
            "interleave_moe_layer_step": 2,
            "intermediate_size": 64,
            "intermediate_size_mlp": 256,
        },
    ),
    Model(
        "Gemma4ForCausalLM",
        "Gemma4TextConfig",
        {
            "num_hidden_layers": 6,
            "layer_types": ["sliding_attention", "full_attention"] * 3,
            "num_kv_shared_layers": 2,
            "sliding_window": WINDOW,
            "global_head_dim": 64,
            "num_global_key_value_heads": 2,
            "hidden_size_per_layer_input": 32,
            "vocab_size_per_layer_input": VOCABULARY,
        },
    ),
    Model(
        "GraniteMoeHybridForCausalLM",
        "GraniteMoeHybridConfig",
        {
            "layer_types": ["mamba", "attention"] * 2,
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "shared_intermediate_size": 256,
            "hidden_size": 256,
            "mamba_n_heads": 8,
            "mamba_d_head": 64,
            "mamba_d_state": 32,
            "mamba_expand": 2,
            "mamba_n_groups": 1,
            "mamba_d_conv": 4,
            "mamba_chunk_size": 64,
            "position_embedding_type": "rope",
        },
    ),
    Model(
        "Lfm2ForCausalLM",
        "Lfm2Config",
        {
            "layer_types": ["conv", "full_attention"] * 2,
            "conv_L_cache": 3,  # with 4, vLLM rewrites the weights in place
            "hidden_size": 256,
            "conv_dim": 256,
            "block_dim": 256,
            "block_auto_adjust_ff_dim": False,
            "block_ffn_dim_multiplier": 1.0,
            "block_multiple_of": 32,
        },
    ),
)
# Where a model has the layer that predicts several tokens, what of it is normalised, and what joins its two inputs.
_MTP = {
    "MiMoForCausalLM": (
        "model.mtp_layers.0.",
        ("token_layernorm", "hidden_layernorm", "final_layernorm"),
        "model.mtp_layers.0.input_proj",
    ),
    "Qwen3NextForCausalLM": (
        "mtp.layers.0.",
        ("mtp.norm", "mtp.pre_fc_norm_hidden", "mtp.pre_fc_norm_embedding"),
        "mtp.fc",
    ),
}


def add_mtp(folder: Path, architecture: str) -> None:
    """Add the layer that predicts several tokens, made as the model's last one, to a model that was saved."""
    import torch  # noqa: PLC0415
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    prefix, norms, joint = _MTP[architecture]
    weights = load_file(folder / "model.safetensors")
    norm = weights["model.norm.weight"]
    torch.manual_seed(SEED + 1)

    def drawn(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape) * SPREAD).to(norm.dtype)

    last = f"model.layers.{COMMON['num_hidden_layers'] - 1}."
    for name, weight in list(weights.items()):
        if name.startswith(last):
            weights[prefix + name.removeprefix(last)] = drawn(*weight.shape) if weight.dim() > 1 else weight.clone()
    for name in norms:
        weights[(name if "." in name else prefix + name) + ".weight"] = norm.clone()
    weights[f"{joint}.weight"] = drawn(len(norm), 2 * len(norm))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def make_draft(folder: Path, kind: str, dtype: str, kv_heads: int) -> Path:
    """Save a draft of one layer for the Llama: "eagle" or "eagle3"."""
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    fields = {
        **COMMON,
        "max_position_embeddings": POSITIONS,
        "num_hidden_layers": 1,
        "num_key_value_heads": kv_heads,
        "draft_vocab_size": VOCABULARY,
    }
    architecture = {"eagle": "LlamaForCausalLM", "eagle3": "LlamaForCausalLMEagle3"}[kind]
    config = transformers.LlamaConfig(
        **fields, architectures=[architecture], eagle_aux_hidden_state_layer_ids=[1, 2, 3]
    )
    torch.manual_seed(SEED + 1)
    hidden = int(fields["hidden_size"])
    weights = transformers.LlamaForCausalLM(config).state_dict()
    kept = {name.removeprefix("model."): weight.clone() for name, weight in weights.items() if "embed" not in name}
    if kind == "eagle":
        kept = {name: weight for name, weight in kept.items() if name.startswith("layers")}
        del kept["layers.0.input_layernorm.weight"]
        kept["fc.weight"] = torch.randn(hidden, 2 * hidden) * SPREAD
    else:
        kept = {name.replace("layers.0.", "midlayer."): weight for name, weight in kept.items()}
        for part in ("q_proj", "k_proj", "v_proj"):  # it takes embedding and hidden states side by side
            key = f"midlayer.self_attn.{part}.weight"
            kept[key] = torch.randn(kept[key].shape[0], 2 * hidden) * SPREAD
        kept["midlayer.hidden_norm.weight"] = torch.ones(hidden)
        kept["fc.weight"] = torch.randn(hidden, 3 * hidden) * SPREAD
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    save_file({name: weight.to(getattr(torch, dtype)) for name, weight in kept.items()}, folder / "model.safetensors")
    return folder


def make(folder: Path, architecture: str, dtype: str, **change: Any) -> Path:  # noqa: ANN401
    """Save a model of this architecture with seeded random weights; the folder, for `model`."""
    [model] = [model for model in _MODELS if model.architecture == architecture]
    fields = {**COMMON, **model.fields, "max_position_embeddings": POSITIONS, **change}
    write_model(folder, replace(model, dtype=dtype, fields=fields))
    return folder
