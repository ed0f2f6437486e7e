# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The router as a library: `create_app(ProxyConfig(prefill=[...], decode=[...]))` is an ASGI application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .router.config import ProxyConfig, ProxyConfigError

if TYPE_CHECKING:
    from starlette.applications import Starlette

__all__ = ["ProxyConfig", "ProxyConfigError", "create_app"]


def create_app(config: ProxyConfig) -> Starlette:
    """Make the router as an ASGI application; see `kvdirect.router.app.create_app`."""
    from .router import app  # noqa: PLC0415  (the web packages are an extra)

    return app.create_app(config)
