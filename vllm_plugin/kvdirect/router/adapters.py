# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""LoRA adapters are loaded and unloaded at every instance, for whoever presents the admin token.

An adapter is a path in the engines' file systems, or a name to download: no client may choose that.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .bodies import Body, RouterError, error_object, forwarded_headers, members_of
from .outcomes import Outcome
from .router import request_id_of
from .upstream import UpstreamError

if TYPE_CHECKING:
    from starlette.requests import Request

    from .admin import Admin
    from .instances import Instance
    from .router import Router

# An engine reads the adapter's weights, or downloads them, before it answers.
_SECONDS = 600.0
_SHOWN = 500  # characters of an instance's answer


class Adapters:
    """Serves `/v1/load_lora_adapter` and `/v1/unload_lora_adapter`."""

    def __init__(self, router: Router, admin: Admin) -> None:
        self._router = router
        self._admin = admin

    def routes(self) -> list[Route]:
        """The routes of the application."""
        serve = self._admin.guarded(self._serve)
        return [Route(f"/v1/{what}_lora_adapter", serve, methods=["POST"]) for what in ("load", "unload")]

    async def _serve(self, request: Request) -> Response:
        body = await self._admin.raw_body(request)
        try:
            members_of(body)
        except ValueError as error:
            raise RouterError(400, f"the request cannot be read: {error}", outcome=Outcome.REFUSED) from error
        headers = forwarded_headers([], request_id_of(request)) + self._router.instance_key
        instances = list({instance.url: instance for instance in self._router.fleet}.values())
        path: str = request.scope["path"]
        with self._router.counted():
            answers = await asyncio.gather(*(self._ask(instance, path, headers, body) for instance in instances))
        self._router.models.forget()
        self._router.crew.forget_models()
        failed = [answer for answer in answers if answer["status"] != 200]
        content: Body = {"instances": answers}
        if not failed:
            return JSONResponse(content)
        told = "; ".join(f"{answer['url']}: {answer['answer']}" for answer in failed)
        text = f"{len(failed)} of {len(answers)} instances did not do it: {told}"
        statuses = {answer["status"] for answer in answers}
        status = statuses.pop() if len(statuses) == 1 else None
        code = status if isinstance(status, int) and 400 <= status < 500 else 502
        return JSONResponse(content | error_object(code, text), status_code=code)

    async def _ask(self, instance: Instance, path: str, headers: list[tuple[bytes, bytes]], body: bytes) -> Body:
        status: int | None = None
        try:
            with instance.held():
                reply = await self._router.upstream.ask(instance, "POST", path, headers, body, seconds=_SECONDS)
                told, status = (await reply.whole()).decode("utf-8", "replace"), reply.status
        except UpstreamError as error:
            told = str(error)
        return {"url": instance.url, "status": status, "answer": told[:_SHOWN]}
