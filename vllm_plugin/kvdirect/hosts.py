# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Hosts: how they are written, what their names mean, and which may be dialled: requests name them."""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Looser than DNS, for the names of containers; what tells a name from the rest of a URL is not in it.
_NAME = re.compile(r"[\w.-]+")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class HostPolicy:
    """Which hosts a request may make us dial: loopback, our own, and those that were allowed."""

    def __init__(self, own: str, allowed: Sequence[str]) -> None:
        """Take names, addresses and CIDR networks; names are compared as text and never looked up."""
        self._names = {"localhost"}
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for entry in map(unbracketed, (own, *allowed)):
            try:
                self._networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                self._names.add(entry)

    def allows(self, host: str) -> bool:
        """Whether `host` may be dialled."""
        address = as_address(host)
        if address is None:
            return host in self._names
        return address.is_loopback or any(address in network for network in self._networks)


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


def unbracketed(host: str) -> str:
    """An IPv6 address without the brackets that URLs put around it."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def endpoint(host: str, port: int | str) -> str:
    """Host and port, for ZeroMQ and for people."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def resolve(host: str) -> str:
    """The address that a name means now, an IPv4 one where it has any; an address means itself.

    Both ends ask in the same way, so a name that both resolve alike is bound and dialled at the same address.

    Raises:
        OSError: The name does not resolve.
    """
    if as_address(host) is not None:
        return host
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses = [str(place[0]) for *_, place in sorted(found, key=lambda entry: entry[0] != socket.AF_INET)]
    return addresses[0]
