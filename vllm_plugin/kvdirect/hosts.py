# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Which hosts may be dialled: requests name them, and requests come from anybody."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class HostPolicy:
    """Which hosts a request may make us dial: loopback, our own, and those that were allowed."""

    def __init__(self, own: str, allowed: Sequence[str]) -> None:
        """Take names, addresses and CIDR networks; names are compared as text and never looked up."""
        self._names = {own, "localhost"}
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for entry in allowed:
            try:
                self._networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                self._names.add(entry)

    def allows(self, host: str) -> bool:
        """Whether `host` may be dialled."""
        if host in self._names or is_loopback(host):
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def is_loopback(host: str) -> bool:
    """Whether this is an address (not a name) of the loopback interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
