# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What kinds of cache vLLM's groups are: what a request keeps in them while it runs, and what can be moved at all.

A full attention cache keeps a row for every position, so what was prefilled to N serves a reader that begins anywhere
below. Windows, chunks and states forget: what a request keeps at N positions is what position N needs, and only that.
Kinds are told by vLLM's classes, of which each version has others, never by how a class is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.v1 import kv_cache_interface

if TYPE_CHECKING:
    from collections.abc import Iterable


def _classes(*names: str) -> tuple[type, ...]:
    """Those of vLLM's classes that this version has."""
    found = (getattr(kv_cache_interface, name, None) for name in names)
    return tuple(kind for kind in found if isinstance(kind, type))


_FULL = _classes("FullAttentionSpec")
_LATENT = _classes("MLAAttentionSpec", "SlidingWindowMLASpec")
_STATE = _classes("MambaSpec")
# RSWASpec is a FullAttentionSpec that frees generated tokens' blocks while a request runs.
_FORGETTING = _classes("SlidingWindowSpec", "ChunkedLocalAttentionSpec", "RSWASpec", "MambaSpec")
# What they hold besides rows of positions is not described to anybody.
_REFUSED = {
    "CrossAttentionSpec": "it holds the encoder's output, and vLLM serves no encoder-decoder model with a connector",
    "EncoderOnlyAttentionSpec": "encoders keep nothing between steps",
    "HiddenStateCacheSpec": "it holds hidden states for extraction, which belong to one engine",
    "CircularBufferSpec": "it is a ring, and how far a request has filled it is not told to connectors",
    "HiSparseHotSpec": "it is a replica that vLLM rebuilds",
    "HiSparseResidentSpec": "it is a replica that vLLM rebuilds",
}


def layer_specs(group: Any) -> dict[str, Any]:
    """Layer name to spec, for the layers of one of vLLM's groups."""
    spec = group.kv_cache_spec
    return dict(getattr(spec, "kv_cache_specs", None) or dict.fromkeys(group.layer_names, spec))


def is_latent(spec: Any) -> bool:
    """One row of bytes for each position, without heads and without V (MLA)."""
    return isinstance(spec, _LATENT)


def is_state(spec: Any) -> bool:
    """One record for a whole request, whatever its length (Mamba, gated delta net, short convolution)."""
    return isinstance(spec, _STATE)


def forgets(specs: Iterable[Any]) -> bool:
    """Whether one of these loses, while a request runs, what an earlier position would need."""
    return any(isinstance(spec, _FORGETTING) for spec in specs)


def why_not(spec: Any) -> str:
    """Why a cache of this kind cannot be moved; empty if it can."""
    kind = type(spec).__name__
    for name, reason in _REFUSED.items():
        if isinstance(spec, _classes(name)):
            return f"it is a {kind}: {reason}"
    if not isinstance(spec, (*_FULL, *_FORGETTING)):
        return f"it is a {kind}, a kind that this version does not know"
    if is_state(spec):
        return ""
    return _odd_rows(spec, kind)


def _odd_rows(spec: Any, kind: str) -> str:
    """What is odd about a cache of one row for each position; empty if nothing is."""
    if getattr(spec, "tokens_per_state", 1) != 1:
        return f"a {kind} that keeps one row for {spec.tokens_per_state} tokens is filled in a way of its own"
    if getattr(spec, "model_version", None) is not None:
        return f"a {kind} of {spec.model_version} packs its pages in a way of its own"
    if getattr(spec, "bounded_replay", False):
        return f"a {kind} with bounded replay is computed anew, not kept"
    return ""
