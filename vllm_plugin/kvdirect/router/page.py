# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The status page at `/`: one file, and headers that let a browser run nothing else and ask nobody else."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.requests import Request


class StatusPage:
    """Serves the file, which asks for `/status` and `/metrics` itself."""

    def __init__(self) -> None:
        self._body = files("kvdirect.router").joinpath("status.html").read_bytes()
        policy = {
            "default-src": "'none'",
            "script-src": self._hash_of("script"),
            "style-src": self._hash_of("style"),
            "img-src": "data:",
            "connect-src": "'self'",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
        }
        self._headers = {
            "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-cache",
        }

    async def show(self, _: Request) -> Response:
        """The page."""
        return Response(self._body, media_type="text/html", headers=self._headers)

    def _hash_of(self, tag: str) -> str:
        """Permits the one element of this kind that the file has, as it is."""
        [inside] = re.findall(rb"<%b>(.*?)</%b>" % (tag.encode(), tag.encode()), self._body, re.DOTALL)
        return f"'sha256-{base64.b64encode(hashlib.sha256(inside).digest()).decode('ascii')}'"
