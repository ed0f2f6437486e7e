# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Run vLLM's own connector tests with this connector in the place of the one that they were written for.

    python tests/contract/vllms_own_tests.py FOLDER

FOLDER is a checkout of vLLM, or its unpacked source distribution, of the version that is installed: wheels have no
tests. Its tests stay as they are. What they build through their helpers (a configuration, a scheduler, a request with
a ticket) is built by those helpers and then made ours.
"""

# ruff: noqa: ANN401  (vLLM's objects)
from __future__ import annotations

import importlib
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
import vllm
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole

from kvdirect import plugin
from kvdirect.connector import KVDirectConnector
from kvdirect.metadata import EngineOffer
from kvdirect.scheduler.last_token import is_shortened
from kvdirect.transfer_params import RemoteLease, prompt_digest

if TYPE_CHECKING:
    from collections.abc import Iterator

UNIT = "tests/v1/kv_connector/unit"
HELPERS = UNIT.replace("/", ".") + ".utils"
OTHERS = ("NixlConnector", "MooncakeConnector")
INCARNATION = 0xABCDEF0123456789

# Tests that ask what any connector can be asked; None: every test of the file.
APPLY: dict[str, tuple[str, ...] | None] = {
    "test_remote_decode_lifecycle.py": None,
    "test_remote_prefill_lifecycle.py": None,
    "test_kv_load_failure_recovery.py": None,
    "test_invalid_blocks_correctness.py": None,
    "test_cache_pollution_prevention.py": None,
    "test_error_propagation.py": None,
    "test_nixl_connector_hma.py": (
        "test_mamba_n1_d_side",
        "test_mamba_n1_d_side_builds_decode_metadata",
        "test_mamba_n1_p_side_truncation",
    ),
    "test_mooncake_connector_hybrid_mamba.py": (
        "test_hybrid_gdn_remote_prefill_uses_mamba_n_minus_one",
        "test_hybrid_gdn_remote_decode_truncates_prefill_before_cache_lookup",
    ),
}
# Of those, what wants something that is another connector's choice.
_COMPUTED_HERE = "a prompt's last token is never taken from elsewhere: vLLM computes it again in any case"
DIFFER = {
    "test_remote_prefill_lifecycle.py::test_basic_lifecycle": _COMPUTED_HERE,
    "test_nixl_connector_hma.py::test_mamba_n1_d_side[fa_only]": _COMPUTED_HERE,
    "test_nixl_connector_hma.py::test_mamba_n1_d_side[swa_only]": _COMPUTED_HERE,
}

# Why the other files are left out, by the first pattern that fits; what the tests above leave of a file is as the rest
# of it. A file that fits none is said to be new.
_OWN = "of the insides of one connector, or of stand-ins for them: its metadata, its descriptors, its worker's fields"
LEFT_OUT = {
    "test_nixl_connector.py": f"{_OWN}; and needs ray",
    "test_bidirectional_kv_transfer.py": "a prefill engine that reads from a decode engine, as NixlConnector can",
    "test_hma_auto_config.py": "vLLM's own configuration, with connectors that it names itself",
    "test_config.py": "vLLM's own configuration, with connectors that it names itself",
    "test_multi_connector.py": "MultiConnector itself, over stand-ins for connectors",
    "test_kv_connector_lifecycle.py": "vLLM's model runner, with a connector that counts its calls",
    "test_scheduler_kv_connector_override.py": "vLLM's plugins, with a connector of the test's own",
    "test_handshake_pp_aggregation.py": "vLLM's engine, with connectors of the test's own",
    "test_output_aggregator.py": "vLLM's executor; no connector in it",
    "test_t[pr]*.py": "classes that vLLM's own connectors share",
    "test_example_connector.py": "needs a GPU and a model from the hub",
    "test_*connector*.py": _OWN,
    "test_nixl_*.py": _OWN,
    "test_mooncake_*.py": _OWN,
    "test_moriio_*.py": _OWN,
    "test_h*.py": _OWN,
    "test_lmcache_*.py": _OWN,
    "test_simple_cpu_*.py": _OWN,
}


def lease(number: int) -> RemoteLease:
    """One that another engine could have given."""
    return RemoteLease(INCARNATION, 7, number, 1)


class Ours(KVDirectConnector):
    """The scheduler's part of the connector under the names that the tests know another one's by."""

    def __init__(self, vllm_config: Any, engine_id: object, kv_cache_config: Any) -> None:
        """`engine_id` is the role, where the tests make the connector and not its scheduler's part."""
        del engine_id
        super().__init__(vllm_config, KVConnectorRole.SCHEDULER, kv_cache_config)

    @property
    def connector_scheduler(self) -> Ours:
        return self

    def on_new_request(self, request: Any) -> None:
        super().on_new_request(request)
        if is_shortened(request):
            request.kv_transfer_params["_p_side_truncated"] = True

    def _truncate_mamba_request_for_prefill(self, request: Any) -> None:
        self.on_new_request(request)


class PointedAtUs:
    """Pytest plugin: what the tests' helpers make is ours, and every outcome is kept."""

    def __init__(self, model: Path) -> None:
        self.outcomes: dict[str, str] = {}
        self._model = model
        self._leases = 0
        self._connectors: list[Any] = []

    def pytest_sessionstart(self) -> None:
        plugin.register()
        helpers = importlib.import_module(HELPERS)
        self._make_config, self._make_scheduler = helpers.create_vllm_config, helpers.create_scheduler
        self._make_request, self._make_caches = helpers.create_request, helpers.make_kv_cache_config
        helpers.create_vllm_config = self.config
        helpers.create_scheduler = self.scheduler
        helpers.create_request = self.request
        helpers.create_mock_connector = lambda: Mock(wraps=self._connectors[-1])
        helpers.make_nixl_scheduler = self.half

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        for module in {item.module for item in items}:
            for name in ("MooncakeConnector", "MooncakeConnectorScheduler"):
                if hasattr(module, name):
                    setattr(module, name, self.connector)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = Path(report.nodeid.partition("::")[0]).name + "::" + report.nodeid.partition("::")[2]
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[name] = report.outcome

    @pytest.fixture(autouse=True)
    def _ends(self) -> Iterator[None]:
        yield
        for connector in self._connectors:
            connector.shutdown()
        self._connectors.clear()

    def config(self, **options: Any) -> Any:
        if options.get("kv_connector", OTHERS[0]) in OTHERS:
            options |= {"kv_connector": plugin.NAME, "kv_role": "kv_both"}
        config = self._make_config(**{"model": str(self._model), **options})
        config.kv_transfer_config.kv_port = 0
        return config

    def scheduler(self, *arguments: Any, **options: Any) -> Any:
        made = self._make_scheduler(*arguments, **options)
        self._begin(made.connector)
        return made

    def connector(self, vllm_config: Any, engine_id: object, kv_cache_config: Any) -> Ours:
        return self._begin(Ours(vllm_config, engine_id, kv_cache_config))

    def half(self, *, has_mamba: bool = False, is_hma_required: bool = False, bounded_replay: bool = False) -> Ours:
        del bounded_replay  # ours does as for it whatever forgets
        windows = is_hma_required and not has_mamba
        caches = self._make_caches(block_size=16, swa_enabled=windows, mamba_enabled=has_mamba)
        return self.connector(self.config(), "self", caches)

    def request(self, *arguments: Any, **options: Any) -> Any:
        """A ticket says what an owner of ours would have: its lease, and the prompt but its last token."""
        request = self._make_request(*arguments, **options)
        params = request.kv_transfer_params
        if params and params["do_remote_prefill"]:
            self._leases += 1
            tokens = max(1, request.num_prompt_tokens - 1)
            params.update(
                remote_host="127.0.0.1",
                remote_block_ids=[params["remote_block_ids"]],
                remote_num_tokens=tokens,
                kvdirect_lease=lease(self._leases).encode(),
                kvdirect_prompt=prompt_digest(request.prompt_token_ids[:tokens], self._leases),
            )
        return request

    def _begin(self, connector: Any) -> Any:
        """As the engine does when its workers have started."""
        self._connectors.append(connector)
        connector.set_xfer_handshake_metadata_pp_aware({(0, 0): EngineOffer(b"d", INCARNATION, (), (), ())})
        return connector


def model_of_vllm(folder: Path) -> Path:
    """The configuration of a model like theirs, without a download."""
    from transformers import OPTConfig  # noqa: PLC0415  (slow)

    sizes = {"hidden_size": 64, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    OPTConfig(**sizes, word_embed_proj_dim=64, architectures=["OPTForCausalLM"]).save_pretrained(str(folder))
    return folder


def left_out(folder: Path) -> Iterator[tuple[str, str]]:
    """Files of which nothing is run, with the reason."""
    for file in sorted((folder / UNIT).glob("test_*.py")):
        if file.name not in APPLY:
            yield (
                file.name,
                next((why for name, why in LEFT_OUT.items() if fnmatch(file.name, name)), "new, not judged"),
            )


def chosen(folder: Path) -> Iterator[str]:
    """What pytest is to run."""
    for name, tests in APPLY.items():
        file = folder / UNIT / name
        if not file.is_file():
            raise SystemExit(f"{file} is missing: FOLDER is to be a checkout of vLLM {vllm.__version__}")
        yield from [str(file)] if tests is None else [f"{file}::{test}" for test in tests]


def main() -> int:
    """Run them and say what became of each; 0 if all did what they should."""
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: {Path(sys.argv[0]).name} FOLDER")
    folder = Path(sys.argv[1]).resolve()
    sys.path.insert(0, str(folder))  # vllm itself is imported by now, the installed one
    options = ["-q", "--disable-warnings", "-p", "no:cacheprovider", "-c", "/dev/null", f"--confcutdir={folder / UNIT}"]
    with tempfile.TemporaryDirectory() as room:
        pointed = PointedAtUs(model_of_vllm(Path(room)))
        pytest.main([*options, *chosen(folder)], plugins=[pointed])
    wrong = 0
    for name, outcome in pointed.outcomes.items():
        expected = "failed" if name in DIFFER else "passed"
        wrong += outcome != expected
        sys.stdout.write(f"{outcome:8}{'' if outcome == expected else '(!) '}{name}  {DIFFER.get(name, '')}\n")
    for name, why in left_out(folder):
        sys.stdout.write(f"left out {name}: {why}\n")
    return int(wrong > 0 or not pointed.outcomes)


if __name__ == "__main__":
    sys.exit(main())
