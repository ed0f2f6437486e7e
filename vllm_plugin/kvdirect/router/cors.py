# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Cross-origin requests: which web pages may ask, as Starlette answers browsers, but never for the admin calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.middleware.cors import CORSMiddleware

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Receive, Scope, Send

_ADMIN = ("/admin", "/v1/load_lora_adapter", "/v1/unload_lora_adapter")


class Cors:
    """Lets pages of these origins ask; what it passes on is passed on part by part."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._open = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=("x-request-id", "retry-after"),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve (an ASGI application)."""
        closed = scope["type"] != "http" or scope["path"].startswith(_ADMIN)
        await (self._app if closed else self._open)(scope, receive, send)
