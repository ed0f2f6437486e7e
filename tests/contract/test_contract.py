# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The connector fits vLLM's own source: the installed one, or that in the folder $KVDIRECT_VLLM_SOURCE.

The source is read, never imported, so this also checks versions that cannot run here.
"""

from __future__ import annotations

import ast
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from contract import CHECKS, Plugin, calls_of_connectors, read_file
from needs import CALLED, EVERYWHERE, HASHING, NEWER, READ
from signatures import Signature
from source_tree import SourceTree, members

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PLUGIN = Path(__file__).parents[2] / "vllm_plugin/kvdirect"
BASE = "vllm.distributed.kv_transfer.kv_connector.v1.base"
METRICS = "vllm.distributed.kv_transfer.kv_connector.v1.metrics"


def source_folder() -> Path:
    chosen = os.environ.get("KVDIRECT_VLLM_SOURCE")
    if chosen:
        folder = Path(chosen)
        assert (folder / "__init__.py").is_file(), f"KVDIRECT_VLLM_SOURCE={chosen}: not the folder of a package"
        return folder
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        pytest.skip("no vLLM is installed here, and KVDIRECT_VLLM_SOURCE names no source")
    return Path(spec.origin).parent


@pytest.fixture(scope="module")
def vllm() -> Iterator[SourceTree]:
    yield SourceTree(source_folder())
    # Millions of nodes: every later garbage collection of this process would look through them.
    for kept in (members, calls_of_connectors, read_file):
        kept.cache_clear()


@pytest.fixture(scope="module")
def plugin() -> Plugin:
    return Plugin({str(file.relative_to(PLUGIN)): file.read_text() for file in PLUGIN.rglob("*.py")})


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_fits(plugin: Plugin, vllm: SourceTree, check: Callable[[Plugin, SourceTree], list[str]]) -> None:
    assert check(plugin, vllm) == []


def test_something_is_checked(plugin: Plugin, vllm: SourceTree) -> None:
    assert len(plugin.imports) > 20
    assert {heir.base for heir in plugin.heirs} >= {"KVConnectorBase_V1", "SupportsHMA", "KVConnectorStats"}
    assert "start_load_kv" in vllm.attributes(BASE, "KVConnectorBase_V1")


def test_nothing_is_asked_for_that_the_plugin_does_not_use(plugin: Plugin) -> None:
    text = "\n".join(plugin.texts.values())
    attributes = {attribute for attributes in READ.values() for attribute in attributes}
    methods = {method for method, _ in CALLED.values()}
    assert {word for word in attributes | methods | {*EVERYWHERE, *NEWER} if word not in text} == set()


# What has changed in vLLM before, done to the plugin: the other side of the same difference.
BROKEN_PLUGIN = {
    "an import": ("scheduler/half.py", "import KVCacheConfig", "import KVCacheSettings", "has no KVCacheSettings"),
    "a module": ("stats.py", "v1.metrics import", "v2.metrics import", "v2.metrics has no KVConnectorStats"),
    "an abstract method": ("connector.py", "def build_connector_meta(", "def build_meta(", "not implement build_conn"),
    "a renamed method": ("connector.py", "def on_new_request(", "def on_request(", "on_request overrides nothing"),
    "a renamed argument": ("connector.py", "num_computed_tokens: int", "cached: int", "'cached', vLLM calls it"),
    "an argument too few": ("connector.py", "blocks: KVCacheBlocks, ", "", "vLLM calls it 'blocks'"),
    "the last argument": ("connector.py", "self, finished_req_ids: set[str]", "self", "not take 'finished_req_ids'"),
    "an argument too many": (
        "connector.py",
        "request: Request) -> None",
        "request: Request, n: int) -> None",
        "ires n",
    ),
    "no **kwargs": ("connector.py", "forward_context: object, **kwargs: Any", "forward_context: object", "**kwargs"),
    "a class method": ("connector.py", "@classmethod\n    def build_prom", "def build_prom", "overrides classmethod"),
    "an awaited method": ("connector.py", "def wait_for_save", "async def wait_for_save", "is async a method"),
    "a lost helper": ("connector.py", "self._get_connector_metadata()", "self._metadata_now()", "self._metadata_now"),
    "a metric": (
        "stats.py",
        "def observe(self, transfer_stats_data",
        "def observe(self, data",
        "'data', vLLM calls it",
    ),
}


@pytest.mark.parametrize("change", BROKEN_PLUGIN)
def test_a_plugin_that_does_not_fit_is_found(plugin: Plugin, vllm: SourceTree, change: str) -> None:
    file, old, new, complaint = BROKEN_PLUGIN[change]
    assert old in plugin.texts[file]
    broken = Plugin({**plugin.texts, file: plugin.texts[file].replace(old, new)})
    found = [line for check in CHECKS for line in check(broken, vllm)]
    assert any(complaint in line for line in found), found


BROKEN_VLLM = {
    "a field": ("vllm.config.kv_transfer", "kv_port: int", "port: int", "KVTransferConfig has no kv_port"),
    "a property": ("vllm.config.kv_transfer", "def is_kv_producer", "def produces", "has no is_kv_producer"),
    "a class": (BASE, "class SupportsHMA", "class SupportsHybrids", "base has no SupportsHMA"),
    "a result": (BASE, "failed_recving: ", "failed_loads: ", "has no failed_recving"),
    "a new duty": (
        BASE,
        "    def reset_cache(",
        "    @abstractmethod\n    def warm(self): ...\n    def reset_cache(",
        "warm",
    ),
    "a new argument": (BASE, "def on_new_request(self, ", "def on_new_request(self, now, ", "calls it 'now'"),
    "a new keyword": (BASE, "def shutdown(self)", "def shutdown(self, *, wait=False)", "not take 'wait'"),
    "its own helper": (BASE, "def _get_connector_metadata", "def _get_metadata", "self._get_connector_metadata, wh"),
    "something to hash by": (HASHING[0], "if request.prompt_embeds", "if request.tenant", "by tenant, a ticket"),
    "a metric class": (METRICS, "self._histogram_cls", "self._histograms", "has no _histogram_cls"),
}


@pytest.mark.parametrize("change", BROKEN_VLLM)
def test_a_vllm_that_does_not_fit_is_found(plugin: Plugin, vllm: SourceTree, change: str) -> None:
    module, old, new, complaint = BROKEN_VLLM[change]
    file = vllm.file(module)
    assert file is not None
    text = file.read_text()
    assert old in text
    broken = vllm.with_texts({module: text.replace(old, new)})
    found = [line for check in CHECKS for line in check(plugin, broken)]
    assert any(complaint in line for line in found), found


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        ("f(1)", ""),
        ("f(a=1)", ""),
        ("f(1, 2)", ""),
        ("f(1, b=2, c=3)", ""),
        ("f(*all)", ""),
        ("f(1, 2, 3)", "takes 2 arguments by position, not 3"),
        ("f(1, d=2)", "takes no d"),
        ("f(1, a=2)", "gets a twice"),
        ("f(b=2)", "lacks a"),
        ("f(1, **more)", "takes no **kwargs"),
    ],
)
def test_calls_that_a_signature_takes(call: str, complaint: str) -> None:
    function = ast.parse("def f(self, a, b=0, *, c=0): ...").body[0]
    made = ast.parse(call, mode="eval").body
    assert isinstance(function, ast.FunctionDef)
    assert isinstance(made, ast.Call)
    assert Signature.of(function).cannot_take(made) == complaint
