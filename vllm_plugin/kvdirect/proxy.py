# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The router as a library: `create_app(ProxyConfig(prefill=[...], decode=[...]))` is an ASGI application."""

from .cli.proxy import ProxyConfig, ProxyConfigError, create_app

__all__ = ["ProxyConfig", "ProxyConfigError", "create_app"]
