# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Prompts with images, and the tiny model that sees them: its processor needs neither a download nor torchvision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from models import POSITIONS
from PIL import Image

from kvdirect.harness.model import COMMON, SPECIAL_TOKENS, Model, write_model, write_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_SIZE, _PATCH, _SCALE = 64, 8, 2
# Tokens behind the alphabet of bytes; only the processor knows the last one.
_FRAME, _GLOBAL, _IMAGE, _END = range(len(SPECIAL_TOKENS) + 256, len(SPECIAL_TOKENS) + 260)
_WORDS = ("<fake_token_around_image>", "<global-img>", "<image>", "<end_of_utterance>")
_ROWS = (_SIZE // _PATCH // _SCALE) ** 2
# What the model is given for an image.
SPELLED = [_FRAME, _GLOBAL, *[_IMAGE] * _ROWS, _FRAME]


@dataclass(frozen=True, slots=True)
class Pictured:
    """A prompt with images, as a client sends it: a token stands for each image.

    Attributes:
        images: What is in them: the seeds of random pixels.
    """

    tokens: list[int]
    images: list[int]

    def __len__(self) -> int:
        """Positions in the model."""
        return len(self.spelled)

    @property
    def spelled(self) -> list[int]:
        """What vLLM makes of its tokens; it does not say what is in the images."""
        return [token for one in self.tokens for token in (SPELLED if one == _IMAGE else [one])]


def with_images(text: Sequence[int], images: Mapping[int, int]) -> Pictured:
    """A prompt as long as this text, with images (by their position in it) instead of what the text has there."""
    tokens: list[int] = []
    end = 0
    for start in sorted(images):
        assert end <= start <= len(text) - len(SPELLED), "images overlap, or go beyond the prompt"
        tokens += [*_words(text[end:start]), _IMAGE]
        end = start + len(SPELLED)
    return Pictured([*tokens, *_words(text[end:])], [images[start] for start in sorted(images)])


def _words(text: Sequence[int]) -> list[int]:
    return [0 if token == _IMAGE else token for token in text]


def pixels(seed: int) -> Image.Image:
    """What is in an image."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (_SIZE, _SIZE, 3), dtype=np.uint8))


def make_seeing(folder: Path, dtype: str, **change: Any) -> Path:  # noqa: ANN401
    """Save an Idefics3 with seeded random weights, and its processor; the folder, for `model`."""
    from transformers import AutoTokenizer, Idefics3ImageProcessor, Idefics3Processor  # noqa: PLC0415

    fields = {
        "text_config": {**COMMON, "model_type": "llama", "max_position_embeddings": POSITIONS, **change},
        "vision_config": {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": _SIZE,
            "patch_size": _PATCH,
            "initializer_range": COMMON["initializer_range"],
        },
        "image_token_id": _IMAGE,
        "scale_factor": _SCALE,
        "pad_token_id": COMMON["pad_token_id"],
        "tie_word_embeddings": False,
    }
    write_model(folder, Model("Idefics3ForConditionalGeneration", "Idefics3Config", fields, dtype))
    write_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(_WORDS), special_tokens=True)
    whole = {"longest_edge": _SIZE}
    images = Idefics3ImageProcessor(do_image_splitting=False, size=whole, max_image_size=whole)
    Idefics3Processor(images, tokenizer, image_seq_len=_ROWS).save_pretrained(str(folder))
    assert tokenizer.convert_tokens_to_ids(list(_WORDS)) == [_FRAME, _GLOBAL, _IMAGE, _END]
    return folder
