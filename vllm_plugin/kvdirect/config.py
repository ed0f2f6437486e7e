# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The plugin's settings: everything that `kv_connector_extra_config` may hold, checked once, at start."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec

from kvtransfer.config import KNOWN_LANES, LIMITS, EngineConfig, expected
from kvtransfer.errors import ConfigError

from .hosts import IPV6_SUFFIX, as_address, device_address, is_host, is_local, is_network, unbracketed
from .keys.tls import Keys

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

AUTO = "auto"  # as `host`
VERIFY = ("off", "sampled", "all")
FAULTS = ("", "zero", "permute", "no_pull", "stall")
# Keys that the engine is given as they are: their defaults and limits are its own.
ENGINE_KEYS = (
    "listen",
    "lanes",
    "rdma_devices",
    "rdma_staging",
    "segment_bytes",
    "shm_directory",
    "message_streams",
    "cuda_sms",
    "cuda_copy",
    "lease_slots",
    "max_hold",
)
_ENGINE = EngineConfig()


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Validated settings of one engine; seconds and bytes where a number has a unit.

    Keys that are not explained here are the engine's, see `kvtransfer.EngineConfig`.

    Attributes:
        host: Address or name other engines reach this one's handshake at; it is bound there and nowhere else. "auto":
            the address of the device in `listen`.
        listen: Network device of sessions and the message lane ("lo", "eth0", ...), "eth0/ipv6" for its IPv6 address,
            which is also taken where `host` is an IPv6 address.
        allow_hosts: Names, domains (".example.com"), addresses or CIDR networks that requests may make us dial, beside
            loopback and `host`.
        key_file: This engine's key, as `kvdirect keygen` makes it; empty: none, and handshakes are in clear.
        peers_file: Public parts of the keys of all engines that may pull from this one, or be pulled from. Both files
            are read again when they change.
        require_keys: Refuse to start without them.
        insecure_network: Without keys, work with engines beyond this machine and this user all the same: whoever
            reaches the handshake's port may then pull.
        require_lane: Refuse a peer that this lane does not reach; empty: the best that works.
        lease_slots: Leases an owner can have at once; beyond that requests are served without one.
        lease_first_term: Seconds a finished prefill is kept before anybody renewed it.
        lease_term: Seconds each renewal asks for.
        affirm_within: The reader stops renewing when its worker has not said so for this many seconds.
        pull_timeout: Seconds one pull may take.
        streamed: Read a prompt's cache while it is being computed, piece by piece, where the router asks both engines
            at once (`kvdirect proxy --dispatch concurrent`). The reader's counts.
        bootstrap: Answer `GET /query` at the handshake's port, in clear and to whoever asks, with the engine's id: for
            routers that send both legs at once as they do for Mooncake's connector (llm-d's sidecar).
        verify: Which pulls are good only if the owner's digest of their bytes is ours: "off", "sampled" (the first of a
            worker and one in a hundred from then on) or "all". Of caches in host memory only.
        handshake_timeout: Seconds to reach, compare and connect to another engine.
        shm_directory: Where engines of one user on one host meet for the shm lane, an absolute path; containers share
            it. Empty: `$XDG_RUNTIME_DIR/kvdirect`, or `/tmp/kvdirect-UID`.
        message_streams: TCP connections that a large pull on the message lane is spread over, each with a thread of its
            own on both sides, at most 8; of two engines the lower number counts. 0: 2 where this process may use two
            processors or more, else 1.
        model_id: What "same model" means between engines; empty: vLLM's model name.
        pull_log: File that gets one JSON object a line for each pull; empty: none.
        log_requests: Write a line to the log for each step of a request whose cache moves, for `kvdirect trace`.
        fault: Tests only, never for serving. "zero" and "permute" corrupt received blocks before vLLM sees them,
            "no_pull" reports success without reading anything, "stall" stops the first pull half-way (see
            `kvtransfer.testing`; only builds with test hooks have it).
        fault_file: Where "stall" says how many bytes have landed; the pull goes on when the file is gone.
    """

    host: str = "127.0.0.1"
    listen: str = _ENGINE.listen
    allow_hosts: tuple[str, ...] = ()
    lanes: tuple[str, ...] = _ENGINE.lanes
    rdma_devices: str = _ENGINE.rdma_devices
    rdma_staging: bool = _ENGINE.rdma_staging
    key_file: str = ""
    peers_file: str = ""
    require_keys: bool = False
    insecure_network: bool = False
    require_lane: str = ""
    lease_slots: int = _ENGINE.lease_slots
    lease_first_term: float = 120.0
    lease_term: float = 60.0
    affirm_within: float = 300.0
    max_hold: float = _ENGINE.max_hold
    pull_timeout: float = 30.0
    streamed: bool = False
    bootstrap: bool = False
    verify: str = "off"
    handshake_timeout: float = 10.0
    shm_directory: str = ""
    segment_bytes: int = _ENGINE.segment_bytes
    message_streams: int = 0
    cuda_sms: int = _ENGINE.cuda_sms
    cuda_copy: str = _ENGINE.cuda_copy
    model_id: str = ""
    pull_log: str = ""
    log_requests: bool = False
    fault: str = ""
    fault_file: str = ""

    @property
    def device(self) -> str:
        """The device of the message lane, with the address family that `host` implies."""
        address = as_address(self.host)
        ipv6 = address is not None and address.version == 6 and not self.listen.endswith(IPV6_SUFFIX)
        return self.listen + (IPV6_SUFFIX if ipv6 else "")

    def located(self) -> Settings:
        """These settings with an address instead of "auto"; raises ConfigError if the device has none."""
        return msgspec.structs.replace(self, host=device_address(self.listen)) if self.host == AUTO else self

    def refuse_open_network(self) -> None:
        """Without keys, only this machine's processes of our user are dealt with.

        Raises:
            ConfigError: There are no keys, and `host` or `allow_hosts` is beyond this machine.
        """
        if self.key_file or self.insecure_network:
            return
        for key, value in (("host", self.host), *(("allow_hosts", entry) for entry in self.allow_hosts)):
            if not is_local(value):
                raise ConfigError(
                    f"{key}: {value!r} is beyond this machine's loopback, and there are no keys: whoever reached the "
                    "handshake's port could pull any request's cache",
                    operation="configure",
                    hint="Make a key for each engine (kvdirect keygen) and set key_file and peers_file; or, on a "
                    "network that nobody else reaches, set insecure_network",
                )

    def keys(self) -> Keys | None:
        """The engine's keys, if it has any.

        Raises:
            ConfigError: They cannot be used.
        """
        return Keys(Path(self.key_file), Path(self.peers_file)) if self.key_file else None

    def engine(self) -> EngineConfig:
        """What the engine is told."""
        given = {key: getattr(self, key) for key in ENGINE_KEYS} | {"listen": self.device}
        # Empty or 0: the engine chooses.
        return EngineConfig(**{key: value for key, value in given.items() if key not in _CHOSEN or value})


_MOST_STREAMS = LIMITS["message_streams"][1]
_CHOSEN = ("shm_directory", "message_streams")
_POSITIVE = ("lease_first_term", "lease_term", "affirm_within", "max_hold", "pull_timeout", "handshake_timeout")
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **{key: (lambda value: 0 < value <= 86400, "seconds, more than 0 and at most 86400") for key in _POSITIVE},
    "host": (is_host, "an address or name, without port and no wildcard: other engines reach this one at it"),
    "allow_hosts": (
        lambda value: all(is_host(entry) or is_network(entry) for entry in value),
        "names, addresses, or networks such as 10.0.0.0/24 and fd00::/64",
    ),
    "require_lane": (lambda value: not value or value in KNOWN_LANES, f"empty or one of {', '.join(KNOWN_LANES)}"),
    "verify": (VERIFY.__contains__, f"one of {', '.join(VERIFY)}"),
    "message_streams": (lambda value: 0 <= value <= _MOST_STREAMS, f"0 to {_MOST_STREAMS}"),
    "fault": (FAULTS.__contains__, f"empty or one of {', '.join(FAULTS[1:])}"),
}


def parse_settings(extra_config: Mapping[str, Any] | None) -> Settings:
    """Check what the user put into `kv_connector_extra_config`.

    Raises:
        ConfigError: Naming the first unknown or bad key, its value, what is expected, and the known keys.
    """
    types = get_type_hints(Settings)
    values: dict[str, Any] = {}
    for key, value in (extra_config or {}).items():
        if key not in types:
            raise _bad(key, value, "no such key")
        try:
            values[key] = msgspec.convert(value, types[key])
        except msgspec.ValidationError as error:
            raise _bad(key, value, str(error)) from None
        if wanted := _wanted(key, values[key]):
            raise _bad(key, value, f"expected {wanted}")
    if "host" in values:
        values["host"] = unbracketed(values["host"])
    settings = Settings(**values)
    if settings.require_lane and settings.require_lane not in settings.lanes:
        raise _bad("require_lane", settings.require_lane, f"expected one of lanes={list(settings.lanes)}")
    if bool(settings.key_file) != bool(settings.peers_file):
        missing = "peers_file" if settings.key_file else "key_file"
        raise _bad(missing, "", "key_file and peers_file go together")
    if settings.require_keys and not settings.key_file:
        raise _bad("key_file", "", "require_keys is set; `kvdirect keygen` makes one")
    if (settings.fault == "stall") != bool(settings.fault_file):
        raise _bad("fault_file", settings.fault_file, 'expected a file with fault="stall", and none without')
    return settings


def _wanted(key: str, value: Any) -> str | None:
    """What a key's value should be, where this is not it."""
    if key in _RULES:
        check, wanted = _RULES[key]
        return None if check(value) else wanted
    engine_chooses = key in _CHOSEN and not value
    return expected(key, value) if key in ENGINE_KEYS and not engine_chooses else None


def _bad(key: str, value: object, problem: str) -> ConfigError:
    known = ", ".join(sorted(get_type_hints(Settings)))
    return ConfigError(
        f"kv_connector_extra_config: {key}={value!r}: {problem}. Known keys: {known}",
        operation="configure",
        hint=f"Correct or remove {key!r} in kv_connector_extra_config",
    )


def handshake_port(kv_port: int, data_parallel_rank: int) -> int:
    """The port of this engine's handshake: `kv_port` plus the data-parallel rank; 0 picks a free one.

    Raises:
        ConfigError: The sum is not a port.
    """
    port = kv_port + data_parallel_rank if kv_port else 0
    if not 0 <= port <= 65535:
        raise ConfigError(
            f"kv_port={kv_port} with data-parallel rank {data_parallel_rank} gives {port}, which is no port",
            operation="configure",
            hint="Use 1 to 65535 less the data-parallel size, or 0 for any free port",
        )
    return port
