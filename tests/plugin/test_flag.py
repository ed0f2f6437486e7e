# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""`--kv-connector` on vLLM's real command-line parser."""

import argparse
import logging
import pickle

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

from kvdirect import plugin


@pytest.fixture(scope="module")
def parser() -> FlexibleArgumentParser:
    """The parser of `vllm serve` and of the API server module; twice, because plugins may be registered twice."""
    plugin.register()
    plugin.register()
    return make_arg_parser(FlexibleArgumentParser())


def parse(parser: FlexibleArgumentParser, *args: str) -> argparse.Namespace:
    return parser.parse_args(["--model", "m", *args])


def test_flag_alone(parser: FlexibleArgumentParser) -> None:
    config = parse(parser, "--kv-connector", "kvdirect").kv_transfer_config
    assert (config.kv_connector, config.kv_role) == ("kvdirect", "kv_both")


@pytest.mark.parametrize(
    "args",
    [
        ("--kv-connector", "kvdirect", "--kv-role", "kv_producer"),
        ("--kv-role", "kv_producer", "--kv-connector", "kvdirect"),
        ("--kv-role=kv_producer", "--kv-connector=kvdirect"),
        ("--kv_role", "kv_producer", "--kv_connector", "kvdirect"),
    ],
)
def test_role_in_any_order(parser: FlexibleArgumentParser, args: tuple[str, ...]) -> None:
    config = parse(parser, *args).kv_transfer_config
    assert (config.kv_connector, config.kv_role) == ("kvdirect", "kv_producer")


@pytest.mark.parametrize("flag_first", [True, False])
def test_merges_with_json(parser: FlexibleArgumentParser, flag_first: bool) -> None:
    flag = ("--kv-connector", "kvdirect")
    json = (
        "--kv-transfer-config",
        '{"kv_port": 0, "engine_id": "e1", "kv_connector_extra_config": {"lanes": ["cma"]}}',
    )
    config = parse(parser, *(flag + json if flag_first else json + flag)).kv_transfer_config
    assert (config.kv_connector, config.kv_role, config.kv_port) == ("kvdirect", "kv_both", 0)
    assert config.engine_id == "e1"
    assert config.kv_connector_extra_config == {"lanes": ["cma"]}


def test_merges_with_dotted(parser: FlexibleArgumentParser) -> None:
    config = parse(
        parser,
        *("--kv-connector", "kvdirect"),
        *("--kv-transfer-config.kv_port", "0"),
        *("--kv-transfer-config.kv_connector_extra_config.host", "127.0.0.1"),
    ).kv_transfer_config
    assert (config.kv_connector, config.kv_role, config.kv_port) == ("kvdirect", "kv_both", 0)
    assert config.kv_connector_extra_config == {"host": "127.0.0.1"}


def test_role_of_the_json_is_kept(parser: FlexibleArgumentParser) -> None:
    json = '{"kv_connector": "kvdirect", "kv_role": "kv_consumer"}'
    config = parse(parser, "--kv-connector", "kvdirect", "--kv-transfer-config", json).kv_transfer_config
    assert config.kv_role == "kv_consumer"


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("--kv-connector", "kvdirect"), "--kv-connector kvdirect contradicts"),
        (("--kv-role", "kv_producer"), "--kv-role kv_producer contradicts"),
    ],
)
def test_contradictions_are_refused(
    parser: FlexibleArgumentParser, args: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    json = '{"kv_connector": "NixlConnector", "kv_role": "kv_both"}'
    with pytest.raises(SystemExit):
        parse(parser, "--kv-transfer-config", json, *args)
    assert complaint in capsys.readouterr().err


def test_bad_role_is_refused(parser: FlexibleArgumentParser, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(parser, "--kv-connector", "kvdirect", "--kv-role", "boss")
    assert "kv_producer" in capsys.readouterr().err


def test_without_our_flags_nothing_changes(parser: FlexibleArgumentParser) -> None:
    assert parse(parser).kv_transfer_config is None
    json = '{"kv_connector": "NixlConnector", "kv_role": "kv_both"}'
    assert parse(parser, "--kv-transfer-config", json).kv_transfer_config.kv_connector == "NixlConnector"


def test_namespace_travels_to_spawned_processes(parser: FlexibleArgumentParser) -> None:
    namespace = pickle.loads(pickle.dumps(parse(parser, "--kv-connector", "kvdirect")))  # noqa: S301  (our own bytes)
    assert AsyncEngineArgs.from_cli_args(namespace).kv_transfer_config.kv_connector == "kvdirect"


def test_help_shows_it(parser: FlexibleArgumentParser) -> None:
    text = argparse.ArgumentParser.format_help(parser)
    assert "--kv-connector" in text
    assert "--kv-role" in text


def test_connector_is_registered_once(parser: FlexibleArgumentParser) -> None:
    del parser
    connector = KVConnectorFactory.get_connector_class_by_name("kvdirect")
    # MultiConnector finds whose statistics it was sent by the name of the class.
    assert KVConnectorFactory.get_connector_class_by_name(connector.__name__) is connector


def test_register_never_raises(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise RuntimeError("this vLLM is different")

    monkeypatch.setattr(plugin, "_add_flags", broken)
    logging.getLogger("vllm.kvdirect").addHandler(caplog.handler)  # vLLM's loggers do not propagate
    plugin.register()
    assert "could not register" in caplog.text
