# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the demo expects to be moved, beside what real models' dimensions say by hand."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("transformers", reason="transformers comes with vLLM, which is not installed here")

import transformers

from kvdirect.harness.cache_geometry import AccountingError, CacheGeometry, Kept, has_states, kept_by, text_config

CACHE = {"mamba_ssm_cache_dtype": "float32"}


def kept(config: Any) -> tuple[Kept, ...]:  # noqa: ANN401
    return kept_by(config, "bfloat16", CACHE)


def test_a_llama_keeps_rows() -> None:
    config = transformers.LlamaConfig(num_hidden_layers=32, num_key_value_heads=8)  # of 32 heads of 128
    assert kept(config) == (Kept(32 * 2 * 8 * 128 * 2),)
    assert not has_states(config)


def test_gpt_oss_keeps_windows_in_every_other_layer() -> None:
    # gpt-oss-20b
    config = transformers.GptOssConfig(num_hidden_layers=24, num_key_value_heads=8, head_dim=64, sliding_window=128)
    assert kept(config) == (Kept(12 * 2048), Kept(12 * 2048, window=128))


def test_qwen3_next_keeps_states() -> None:
    # Qwen3-Next-80B-A3B: 36 gated delta nets with 16 heads for keys and 32 for values, of 128 each; else attention
    config = transformers.Qwen3NextConfig(num_hidden_layers=48, num_key_value_heads=2, head_dim=256)
    state = (2 * 2048 + 4096) * 3 * 2 + 32 * 128 * 128 * 4
    assert kept(config) == (Kept(12 * 2048), Kept(36 * state, state=True))
    assert has_states(config)


def test_a_latent_cache_keeps_one_row() -> None:
    config = transformers.DeepseekV2Config(num_hidden_layers=27, kv_lora_rank=512, qk_rope_head_dim=64)
    assert kept(config) == (Kept(27 * 576 * 2),)


def test_all_layers_of_a_mistral_are_windows() -> None:
    config = transformers.MistralConfig(num_hidden_layers=32, sliding_window=4096)
    assert kept(config) == (Kept(32 * 2 * 8 * 128 * 2, window=4096),)
    assert kept(transformers.MistralConfig(num_hidden_layers=32, sliding_window=None)) == (Kept(32 * 4096),)


@pytest.mark.parametrize(
    "config",
    [
        transformers.Lfm2Config(num_hidden_layers=2, layer_types=["conv", "full_attention"]),
        transformers.Gemma4TextConfig(num_kv_shared_layers=2),
    ],
    ids=["short convolution", "KV sharing"],
)
def test_what_cannot_be_worked_out_is_named(config: Any) -> None:  # noqa: ANN401
    with pytest.raises(AccountingError, match=rf"{config.model_type} model with .*(conv|num_kv_shared_layers)"):
        kept(config)


def test_a_folder_without_a_known_configuration_is_named(tmp_path: Any) -> None:  # noqa: ANN401
    (tmp_path / "config.json").write_text('{"model_type": "nothing-known"}')
    with pytest.raises(AccountingError, match="nothing-known"):
        text_config(tmp_path)


@pytest.mark.parametrize(
    ("tokens", "hits", "rows", "windows"),
    [
        (6, 0, 1, 1),
        (33, 0, 1, 1),
        (34, 0, 2, 2),
        (97, 0, 3, 3),  # 96 are there, all within the window
        (128, 0, 4, 3),  # the next to come sees 95 of 127: the first block holds none of them
        (1742, 1728, 1, 1),
        (1742, 0, 55, 4),
    ],
)
def test_blocks_that_move(tokens: int, hits: int, rows: int, windows: int) -> None:
    geometry = CacheGeometry(32, (Kept(10), Kept(1000, window=96), Kept(100000, state=True)))
    assert geometry.expected_bytes(tokens, hits) == rows * 320 + windows * 32000 + 100000
