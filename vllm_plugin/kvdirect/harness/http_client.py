# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The client for requests to the engines of this host."""

from __future__ import annotations

from functools import cache

import httpx


@cache
def http() -> httpx.Client:
    """One for all: making a client reads the system's certificates, which takes twenty times as long as a request.

    Connections end with their requests, as engines do that are started again at the same address.
    """
    return httpx.Client(limits=httpx.Limits(max_keepalive_connections=0))
