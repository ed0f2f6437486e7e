# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Which versions of vLLM the connector takes, and what it says about the others."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from kvdirect import versions
from kvtransfer.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("found", ["0.30.0", "0.30.1.dev4+gabc", "0.31.0+cpu", "0.32.0rc1", "0.33.2"])
def test_versions_of_the_range(found: str) -> None:
    versions.refuse_older(found)
    assert versions.warning(found) == ""


@pytest.mark.parametrize("found", ["0.29.4", "0.9.2", "0.29.1.dev3+g12", "0.3.3"])
def test_older_ones_are_refused_by_name(found: str) -> None:
    with pytest.raises(ConfigError) as error:
        versions.refuse_older(found)
    assert f"vLLM {found} is too old" in str(error.value)
    assert "0.30 to 0.33" in str(error.value)


@pytest.mark.parametrize("found", ["0.34.0", "0.100.0", "1.0.0"])
def test_newer_ones_are_tried(found: str) -> None:
    versions.refuse_older(found)
    assert versions.warning(found) == f"vLLM {found} is newer than what the connector is tested with, 0.30 to 0.33"


@pytest.mark.parametrize("found", ["dev", "0.1.dev1+g1234abc", "0.12.dev7", ""])
def test_a_build_that_knows_no_version_is_tried(found: str) -> None:
    """What a checkout without tags calls itself says nothing about its age."""
    versions.refuse_older(found)
    assert "is no release" in versions.warning(found)


def load_connector(statement: str) -> str:
    """What Python says last when the connector is loaded after this statement."""
    code = f"import vllm; {statement}; import kvdirect.connector"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    return done.stderr.splitlines()[-1]


def test_an_old_vllm_is_refused_when_the_connector_is_loaded() -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed here")
    assert load_connector("vllm.__version__ = '0.29.4'") == (
        "kvtransfer.errors.ConfigError: load the kvdirect connector: vLLM 0.29.4 is too old for it; it is tested with "
        "0.30 to 0.33. Install one of these versions, or start vLLM without the connector"
    )


def test_a_vllm_that_lacks_a_part_is_refused_and_the_part_named() -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed here")
    base = "vllm.distributed.kv_transfer.kv_connector.v1.base"
    said = load_connector(f"vllm.__version__ = '0.99.0'; import {base}; del {base}.KVConnectorTransferResults")
    assert said.startswith("kvtransfer.errors.ConfigError: load the kvdirect connector: vLLM 0.99.0 does not fit: ")
    assert "KVConnectorTransferResults" in said


def test_the_scheduler_warns_once_about_a_newer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed here")
    from vllm.config import KVTransferConfig  # noqa: PLC0415  (only where vLLM is)
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole  # noqa: PLC0415
    from vllm.engine.arg_utils import EngineArgs  # noqa: PLC0415
    from vllm.v1.kv_cache_interface import KVCacheConfig  # noqa: PLC0415

    from kvdirect import connector  # noqa: PLC0415
    from kvdirect.harness.model import make_tiny_llama  # noqa: PLC0415

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    lines: list[str] = []
    handler = Kept()
    monkeypatch.setattr(connector, "vllm_version", "0.77.0")
    transfer = KVTransferConfig(kv_connector="kvdirect", kv_role="kv_consumer", engine_id="self")
    model = str(make_tiny_llama(tmp_path / "model"))
    config = EngineArgs(model=model, dtype="float32", kv_transfer_config=transfer).create_engine_config()
    logging.getLogger("vllm.kvdirect").addHandler(handler)
    try:
        for role in (KVConnectorRole.WORKER, KVConnectorRole.SCHEDULER):
            connector.KVDirectConnector(config, role, KVCacheConfig(1, [], [])).shutdown()
    finally:
        logging.getLogger("vllm.kvdirect").removeHandler(handler)
    assert [line for line in lines if "0.77.0" in line] == [
        "kvdirect: vLLM 0.77.0 is newer than what the connector is tested with, 0.30 to 0.33"
    ]
