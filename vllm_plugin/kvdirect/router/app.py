# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The router as an ASGI application: its routes, its life span, its errors."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .adapters import Adapters
from .admin import Admin
from .apis import ENDPOINTS, endpoint_of
from .bodies import RouterError, error_object
from .client import error_answer
from .cors import Cors
from .crew import Crew
from .elastic import Elastic
from .http_client import Client
from .metrics import CONTENT_TYPE
from .outcomes import RoleChange
from .page import StatusPage
from .router import Router, request_id_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request

    from .config import ProxyConfig
    from .instances import Role

_log = logging.getLogger("kvdirect.proxy")
_OURS = (
    "/",
    "/v1/models",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/admin/instances",
    "/health",
    "/status",
)
_SERVED = ", ".join((*ENDPOINTS, *_OURS)) + " and /metrics"


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 404:
        text = f"{request.url.path} is not served here; {_SERVED} are"
    elif status == 405:
        text = f"{request.method} is not allowed on {request.url.path}"
    else:
        text = "the router failed on this request; its log has the cause"
    found = endpoint_of(request.url.path)
    content = error_object(status, text) if found is None else json.loads(found.api.error(status, text))
    return JSONResponse(content, status_code=status, headers=getattr(error, "headers", None))


def _roles_ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("roles change no more by themselves: the router failed at it", exc_info=error)


@asynccontextmanager
async def roles_watched(config: ProxyConfig, router: Router, changed: Callable[[Role], object]) -> AsyncIterator[None]:
    """Where roles are to change by themselves, have them do so while the context is open."""
    if not config.elastic or router.crew.counts.worker > 0:  # one of the workers decides
        yield
        return
    task = asyncio.create_task(Elastic(config, router.fleet, changed).run())
    task.add_done_callback(_roles_ended)
    try:
        yield
    finally:
        task.cancel()


def create_app(config: ProxyConfig, crew: Crew | None = None) -> Starlette:
    """Make the router.

    Args:
        config: Its settings; `host`, `port`, `workers` and `drain_timeout` are the server's and not read here.
        crew: What it shares with other processes; None: there are none.

    Returns:
        An ASGI application. Its lifespan opens the connections and starts the health checks, so the server must run
        it (as the main application: Starlette runs no lifespan of a mounted one).
    """
    router = Router(config, crew or Crew.alone(config))

    def changed(role: Role) -> None:
        router.metrics.count(RoleChange(role))

    admin = Admin(router.fleet, config, changed)

    async def health(_: Request) -> Response:
        """200 while requests are served: what a load balancer asks."""
        status = router.status
        return JSONResponse({"status": status}, status_code=200 if status in {"ok", "degraded"} else 503)

    async def status(_: Request) -> Response:
        return JSONResponse(router.describe())

    async def metrics(_: Request) -> Response:
        return Response(router.metrics.render(), headers={"content-type": CONTENT_TYPE})

    async def models(request: Request) -> Response:
        request_id = "unknown"
        try:
            request_id = request_id_of(request)
            answer = await router.list_models(request, request_id)
        except RouterError as error:
            answer = error_answer(error, request_id)
        response = Response(answer.body, status_code=answer.status)
        response.raw_headers = [*answer.headers, (b"content-length", str(len(answer.body)).encode("ascii"))]
        return response

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        router.journals.open()
        async with Client() as client, router.fleet.watched(client):
            router.upstream.client = client
            try:
                async with roles_watched(config, router, changed):
                    yield
            finally:
                await router.returns.settle()
                router.upstream.client = None
                await router.journals.close()
                if not router.crew.counts.is_shared:
                    _log.info("stopped: %s", router.metrics.counts)

    app = Starlette(
        routes=[
            *(Route(path, router, methods=[endpoint.method]) for path, endpoint in ENDPOINTS.items()),
            Route("/v1/models", models, methods=["GET"]),
            Route("/", StatusPage().show, methods=["GET"]),
            Route("/health", health, methods=["GET"]),
            Route("/status", status, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            *admin.routes(),
            *Adapters(router, admin).routes(),
        ],
        exception_handlers={HTTPException: _http_error, 500: _http_error},
        lifespan=lifespan,
    )
    if config.allowed_origins:
        app.add_middleware(Cors, origins=config.allowed_origins)
    app.router.redirect_slashes = False  # a redirect's address would be the one that the client names as Host
    app.state.router = router
    return app
