# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Hosts: how they are written, what their names mean, and which may be dialled: requests name them."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from kvtransfer.errors import ConfigError

from .lookups import lookup

if TYPE_CHECKING:
    from collections.abc import Sequence

# Of `listen`: the device's IPv6 address instead of its IPv4 one.
IPV6_SUFFIX = "/ipv6"

# Looser than DNS, for the names of containers; what tells a name from the rest of a URL is not in it.
_NAME = re.compile(r"[\w.-]+")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class HostPolicy:
    """Which hosts a request may make us dial: loopback, our own, and those that were allowed."""

    def __init__(self, own: str, allowed: Sequence[str]) -> None:
        """Take names, domains (".example.com"), addresses and CIDR networks.

        Names are compared as text and never looked up: a request must not make us ask a DNS server either.
        """
        self._names = {"localhost"}
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for entry in map(unbracketed, (own, *allowed)):
            try:
                self._networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                self._names.add(_canonical(entry))
        self._domains = tuple(name for name in self._names if name.startswith("."))

    def allows(self, host: str) -> bool:
        """Whether `host` may be dialled."""
        address = as_address(host)
        if address is None:
            name = _canonical(host)
            return is_host(host) and (name in self._names or name.endswith(self._domains))
        return address.is_loopback or any(address in network for network in self._networks)


def _canonical(name: str) -> str:
    """A name as it is compared: DNS knows no case, and a dot at the end says that it is complete."""
    return name.lower().removesuffix(".")


def as_address(host: str) -> _Address | None:
    """The address, None for a name. IPv4 addresses written as IPv6 ones (::ffff:10.0.0.5) are IPv4 addresses."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def is_host(text: str) -> bool:
    """Whether this can be the address or name of one host; all interfaces at once (0.0.0.0) are none."""
    address = as_address(unbracketed(text))
    if address is not None:
        return not address.is_unspecified
    return _NAME.fullmatch(text) is not None


def is_network(text: str) -> bool:
    """Whether this is an address or a network in CIDR notation."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether this is an address (not a name) of the loopback interface."""
    address = as_address(host)
    return address is not None and address.is_loopback


def is_local(text: str) -> bool:
    """Whether this address, network or name can only mean the loopback interface."""
    try:
        network = ipaddress.ip_network(unbracketed(text), strict=False)
    except ValueError:
        return _canonical(text) == "localhost"
    return network.is_loopback


def unbracketed(host: str) -> str:
    """An IPv6 address without the brackets that URLs put around it."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def endpoint(host: str, port: int | str) -> str:
    """Host and port as URLs have them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def resolve(host: str, timeout: float) -> str:
    """The address that a name means now, an IPv4 one where it has any; an address means itself.

    Both ends ask in the same way, so a name that both resolve alike is bound and dialled at the same address.

    Args:
        host: The name or address.
        timeout: Seconds that a name may take.

    Raises:
        OSError: The name does not resolve, or not in time; or too many others still wait for their servers.
    """
    return host if as_address(host) is not None else lookup(host, timeout)[0]


def device_address(listen: str) -> str:
    """The address of a network device, as an engine finds it that is to listen there: IPv4 where there is one.

    Args:
        listen: The device's name, with "/ipv6" for its IPv6 address.

    Raises:
        ConfigError: There is no such device, or it has no such address; says what there is.
    """
    from kvtransfer.doctor.network import ipv4_address, list_devices  # noqa: PLC0415  (all of the doctor, for two words)

    name = listen.removesuffix(IPV6_SUFFIX)
    if name == listen and (address := ipv4_address(name)) is not None:
        return str(address)
    devices = {device.name: device.addresses for device in list_devices()}
    if found := [address for address in devices.get(name, ()) if ":" in address]:
        return found[0]
    have = "; ".join(f"{name}: {', '.join(addresses)}" for name, addresses in devices.items() if addresses)
    kind = "IPv6 address" if name != listen else "address"
    raise ConfigError(
        f"host='auto': the network device {name!r} of listen={listen!r} "
        + (f"has no {kind}" if name in devices else "does not exist"),
        operation="configure",
        status=f"devices with addresses: {have or 'none'}",
        hint="Name one of these in listen, or this engine's address in host",
    )
