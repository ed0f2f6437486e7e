# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The plugin's settings: what is accepted, and what an error says."""

import pytest

from kvdirect.config import ENGINE_KEYS, Settings, handshake_port, parse_settings
from kvtransfer import EngineConfig
from kvtransfer.config import LIMITS
from kvtransfer.errors import ConfigError


def test_defaults() -> None:
    assert parse_settings(None) == parse_settings({}) == Settings()


def test_values_are_taken_over() -> None:
    settings = parse_settings(
        {"host": "10.0.0.5", "lanes": ["message"], "allow_hosts": ["10.0.0.0/24"], "lease_term": 5, "fault": "zero"}
    )
    assert settings.host == "10.0.0.5"
    assert settings.lanes == ("message",)
    assert settings.allow_hosts == ("10.0.0.0/24",)
    assert settings.lease_term == 5.0
    assert settings.fault == "zero"


@pytest.mark.parametrize(
    ("key", "value", "expectation"),
    [
        ("lease_trem", 3, "no such key"),
        ("pull_timeout", "soon", "Expected `float`, got `str`"),
        ("pull_timeout", 0, "more than 0"),
        ("max_hold", float("inf"), "at most 86400"),
        ("lanes", [], "non-empty"),
        ("lanes", ["cma", "cma"], "without repeats"),
        ("lanes", ["carrier_pigeon"], "out of"),
        ("lanes", "cma", "Expected `array`"),
        ("require_lane", "pigeon", "empty or one of"),
        ("lease_slots", 0, "1 to 65536"),
        ("lease_slots", 65537, "1 to 65536"),
        ("lease_slots", 1.5, "Expected `int`"),
        ("segment_bytes", 16383, "16384 to 4194304"),
        ("rdma_devices", "", "UCX's names of RDMA devices, or all"),
        ("message_streams", -1, "0 to 8"),
        ("message_streams", 9, "0 to 8"),
        ("cuda_sms", -1, "0 to 1024"),
        ("cuda_sms", 1025, "0 to 1024"),
        ("cuda_copy", "memcpy", "one of kernel, bulk, batch"),
        ("host", "", "no wildcard"),
        ("host", "0.0.0.0", "no wildcard"),  # noqa: S104  (refused, not bound)
        ("host", "[::]", "no wildcard"),
        ("host", "10.0.0.5:14579", "without port"),
        ("host", "10.0.0.0/24", "an address or name"),
        ("allow_hosts", ["10.0.0.0/33"], "networks such as"),
        ("allow_hosts", ["http://10.0.0.5"], "names, addresses"),
        ("allow_hosts", [""], "names, addresses"),
        ("fault", "explode", "zero, permute, no_pull"),
        ("allow_hosts", [1], "Expected `str`"),
    ],
)
def test_errors_name_key_value_expectation_and_known_keys(key: str, value: object, expectation: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_settings({"listen": "lo", key: value})
    message = str(caught.value)
    assert f"{key}={value!r}" in message
    assert expectation in message
    assert "lease_first_term" in message
    assert "segment_bytes" in message


@pytest.mark.parametrize(
    ("host", "listen", "device"),
    [
        ("10.0.0.5", "eth0", "eth0"),
        ("prefill-0", "eth0", "eth0"),
        ("prefill-0", "eth0/ipv6", "eth0/ipv6"),
        ("fd00::5", "eth0", "eth0/ipv6"),
        ("[fd00::5]", "eth0/ipv6", "eth0/ipv6"),
        ("::ffff:10.0.0.5", "eth0", "eth0"),
    ],
)
def test_data_takes_the_address_family_of_host(host: str, listen: str, device: str) -> None:
    settings = parse_settings({"host": host, "listen": listen})
    assert settings.device == device
    assert settings.host == host.strip("[]")


@pytest.mark.parametrize("key", sorted(LIMITS.keys() & set(ENGINE_KEYS)))
def test_the_engine_takes_what_the_plugin_takes(key: str) -> None:
    for value in LIMITS[key]:
        engine = parse_settings({key: value}).engine()
        assert getattr(engine, key) == value
    with pytest.raises(ConfigError, match=key):
        parse_settings({key: LIMITS[key][1] + 1})


def test_what_is_left_to_the_engine() -> None:
    given = parse_settings({"shm_directory": "", "message_streams": 0, "host": "fd00::5", "listen": "eth0"}).engine()
    assert given == EngineConfig(listen="eth0/ipv6")


def test_required_lane_must_be_permitted() -> None:
    with pytest.raises(ConfigError, match="require_lane='message'"):
        parse_settings({"lanes": ["cma"], "require_lane": "message"})


def test_a_stall_needs_its_file() -> None:
    for settings in ({"fault": "stall"}, {"fault_file": "stalled"}):
        with pytest.raises(ConfigError, match="fault_file"):
            parse_settings(settings)


def test_port_is_base_plus_rank() -> None:
    assert handshake_port(14579, 0) == 14579
    assert handshake_port(14579, 3) == 14582
    assert handshake_port(0, 3) == 0
    with pytest.raises(ConfigError, match="70000"):
        handshake_port(70000, 0)
