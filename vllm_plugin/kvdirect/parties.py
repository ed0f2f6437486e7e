# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""By what peers are told apart where one must not take the share of another."""

from __future__ import annotations

import ipaddress


def party_of(address: str) -> str:
    """The party that a peer belongs to: its address, of IPv6 the /64 network, whose addresses one machine has all."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # what a front of the router calls its clients
        return address
    return address if parsed.version == 4 else str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
