# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the tests do inside each worker of an engine, whatever process that is in: vLLM's `worker_extension_cls`."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from vllm.distributed.kv_transfer import get_kv_transfer_group

from kvdirect.cache.block_tables import kernel_table
from kvdirect.cache.groups import transfer_groups
from kvdirect.worker.half import WorkerHalf
from kvdirect.worker.reader import WorkerReader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvdirect.metadata import PullOrder

CACHES: dict[str, torch.Tensor] = {}
# Of each layer and head, or of a layer without heads. By request: what its pull brought.
Digests = dict[str, list[str]]
LANDED: dict[str, Digests] = {}

_register, _succeed = WorkerHalf.register, WorkerReader._succeed


def _registering(self: WorkerHalf, caches: Mapping[str, torch.Tensor]) -> None:
    CACHES.update(caches)
    _register(self, caches)


def _succeeding(self: WorkerReader, job: object, order: PullOrder, result: object) -> None:
    """Keep digests of what each pull brought, as the model will find it."""
    _succeed(self, job, order, result)  # type: ignore[arg-type]
    LANDED[order.request_id.rsplit("-", 1)[0]] = _digests(self._covered(order))


WorkerHalf.register = _registering  # type: ignore[method-assign]
WorkerReader._succeed = _succeeding  # type: ignore[method-assign, assignment]


def _digests(blocks: list[list[int]]) -> Digests:
    """Of each layer's bytes in these blocks, given for each group."""
    worker = get_kv_transfer_group().worker
    ratios = worker._reader._geometry.kernel_blocks if worker._reader else worker._owner._kernel_blocks
    found = {}
    for group, ids, ratio in zip(transfer_groups(worker._kv_cache_config), blocks, ratios, strict=True):
        for layer in group.layers:
            content = CACHES[layer][kernel_table(ids, ratio).tolist()]
            heads = content.unbind(1) if content.dim() == 4 else [content]  # (block, head, token, K and V)
            found[layer] = [hashlib.sha256(_bytes(head)).hexdigest()[:16] for head in heads]
    return found


def _bytes(content: torch.Tensor) -> bytes:
    return content.contiguous().view(torch.uint8).numpy().tobytes()


class Inside:
    """Methods of every worker."""

    rank: int

    def digests_of(self, tables: list[list[list[int]]]) -> list[Digests]:
        return [_digests(blocks) for blocks in tables]

    def digests_landed(self) -> dict[str, Digests]:
        return LANDED

    def corrupt(self, how: str, layers: list[str], ranks: list[int] | None) -> None:
        """Change what pulls bring for these layers: "zero", or "permute" (their values in each block are reversed)."""
        worker = get_kv_transfer_group().worker
        reader, groups = worker._reader, transfer_groups(worker._kv_cache_config)
        ratios = reader._geometry.kernel_blocks

        def change(blocks: list[list[int]]) -> None:
            for group, ids, ratio in zip(groups, blocks, ratios, strict=True):
                table = kernel_table(ids, ratio).tolist()
                for layer in set(layers) & set(group.layers):
                    content = CACHES[layer][table]
                    changed = content.flatten(1).flip(1).view(content.shape) if how == "permute" else 0
                    CACHES[layer][table] = changed

        mine = bool(layers) and (ranks is None or self.rank in ranks)
        reader._corrupt = change if mine else None
