# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What a GPU's stream order rests on: when, in a step, vLLM's model runners call the connector; and backends' names.

The connector takes what is queued at `bind_connector_metadata` for all that may touch the blocks of this step's pulls,
and what is queued at `wait_for_save` for all that has written blocks. Read from the source, as in test_contract.py.
"""

from __future__ import annotations

import ast
import itertools
from typing import TYPE_CHECKING

import pytest
from source_tree import SourceTree
from test_contract import source_folder

pytest.importorskip("kvtransfer", reason="kvtransfer is not built")
from kvdirect.cache.layer_shape import PACKING

if TYPE_CHECKING:
    from collections.abc import Sequence

V1, V1_CALLS = "vllm.v1.worker.gpu_model_runner", "vllm.v1.worker.kv_connector_model_runner_mixin"
V2, V2_CALLS = "vllm.v1.worker.gpu.model_runner", "vllm.v1.worker.gpu.kv_connector"


@pytest.fixture(scope="module")
def vllm() -> SourceTree:
    return SourceTree(source_folder())


def calls(tree: SourceTree, module: str, owner: str, function: str) -> list[str]:
    """Names of what a method calls, in the order of the text."""
    methods = tree.attributes(module, owner)
    assert function in methods, f"{module}.{owner} has no {function}"
    found = [node for node in ast.walk(methods[function]) if isinstance(node, ast.Call)]
    found.sort(key=lambda node: (node.lineno, node.col_offset))
    return [ast.unparse(node.func).rpartition(".")[2] for node in found]


def assert_order(made: Sequence[str], *wanted: str) -> None:
    """Each of `wanted` is called, and the last call of it comes before the first of the next."""
    for name in wanted:
        assert name in made, f"{name} is not called: {made}"
    for before, after in itertools.pairwise(wanted):
        last = len(made) - 1 - list(reversed(made)).index(before)
        assert last < made.index(after), f"{before} is called after {after}"


def test_v1_binds_between_clearing_blocks_and_the_forward(vllm: SourceTree) -> None:
    assert "_zero_block_ids" in calls(vllm, V1, "GPUModelRunner", "_update_states")
    made = calls(vllm, V1, "GPUModelRunner", "execute_model")
    assert_order(made, "_update_states", "maybe_get_kv_connector_output", "_model_forward")
    bound = calls(vllm, V1_CALLS, "KVConnectorModelRunnerMixin", "_get_kv_connector_output")
    assert_order(bound, "bind_connector_metadata", "start_load_kv", "wait_for_save", "get_transfer_results")


def test_v1_saves_behind_the_draft_model(vllm: SourceTree) -> None:
    made = calls(vllm, V1, "GPUModelRunner", "sample_tokens")
    assert_order(made, "propose_draft_token_ids", "finalize_kv_connector")
    assert "wait_for_save" in calls(vllm, V1_CALLS, "KVConnectorModelRunnerMixin", "finalize_kv_connector")


def test_v2_binds_between_clearing_blocks_and_the_forward(vllm: SourceTree) -> None:
    assert "zero_block_ids" in calls(vllm, V2, "GPUModelRunner", "update_requests")
    made = calls(vllm, V2, "GPUModelRunner", "execute_model")
    assert_order(made, "update_requests", "no_forward", "pre_forward", "finish_forward")
    for forward in ("run_fullgraph", "run_pw_graph"):
        assert made.index("pre_forward") < made.index(forward)
    assert "bind_connector_metadata" in calls(vllm, V2_CALLS, "ActiveKVConnector", "pre_forward")


def test_v2_saves_behind_the_draft_model(vllm: SourceTree) -> None:
    made = calls(vllm, V2, "GPUModelRunner", "sample_tokens")
    last = "finalize_step" if "finalize_step" in made else "post_forward"  # from 0.33 in two parts
    assert made.index("propose") < len(made) - 1 - made[::-1].index(last)
    method = "finalize_step" if last == "finalize_step" else "post_forward"
    assert "wait_for_save" in calls(vllm, V2_CALLS, "ActiveKVConnector", method)


def test_backends_that_we_know_are_vllms(vllm: SourceTree) -> None:
    """A name that vLLM does not use would be one that we have misspelt."""
    folder = vllm.folder / "v1/attention/backends"
    text = "\n".join(file.read_text() for file in folder.rglob("*.py"))
    assert [name for name in PACKING if f'"{name}"' not in text] == []
