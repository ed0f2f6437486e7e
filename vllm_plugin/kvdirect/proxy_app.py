# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The router as an ASGI application: its routes, its life span, its errors."""

import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kvdirect.proxy_exchange import error_answer
from kvdirect.proxy_instances import Pool, watched
from kvdirect.proxy_messages import ProxyError, error_object, forwarded_headers, returned_headers, take_request_id
from kvdirect.proxy_router import Router, broken

if TYPE_CHECKING:
    from starlette.requests import Request

    from kvdirect.proxy_config import ProxyConfig

_log = logging.getLogger("kvdirect.proxy")

# Shorter than the 5 s after which vLLM's server closes an idle connection: one closed under a request would fail it.
_KEEPALIVE_SECONDS = 2.0


def _new_client() -> httpx.AsyncClient:
    """A client that queues nothing and that the environment's proxy settings do not send elsewhere."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=_KEEPALIVE_SECONDS)
    return httpx.AsyncClient(limits=limits, trust_env=False, verify=ssl.create_default_context())


async def _health(request: "Request") -> Response:
    router: Router = request.app.state.router
    state = router.state()
    return JSONResponse(state, status_code=503 if state["status"] == "unavailable" else 200)


async def _models(request: "Request") -> Response:
    """The models of a decode instance, which is the one that answers."""
    router: Router = request.app.state.router
    request_id = "unknown"
    try:
        try:
            request_id = take_request_id(request.headers.raw)
        except ValueError as exc:
            raise ProxyError(400, str(exc)) from exc
        headers = forwarded_headers(request.headers.raw, request_id)
        instance, upstream = await router.open_decode("GET", "/v1/models", headers, None)
        try:
            body = b"".join([chunk async for chunk in upstream.aiter_raw()])
        except httpx.RequestError as exc:
            raise broken(instance, exc) from exc
        finally:
            await upstream.aclose()
    except ProxyError as error:
        answer = error_answer(error, request_id)
        status, raw, body = answer.status, answer.headers, answer.body
    else:
        status, raw = upstream.status_code, returned_headers(upstream.headers.raw, request_id)
    response = Response(body, status_code=status)
    response.raw_headers = [*raw, (b"content-length", str(len(body)).encode("ascii"))]
    return response


async def _http_error(request: "Request", exc: Exception) -> Response:
    status = exc.status_code if isinstance(exc, HTTPException) else 500
    if status == 404:
        served = "/v1/completions, /v1/chat/completions, /v1/models and /health"
        text = f"{request.url.path} is not served here; {served} are"
    elif status == 405:
        text = f"{request.method} is not allowed on {request.url.path}"
    else:
        text = "the proxy failed on this request; its log has the cause"
    return JSONResponse(error_object(status, text), status_code=status, headers=getattr(exc, "headers", None))


def create_app(config: "ProxyConfig") -> Starlette:
    """Make the router.

    Args:
        config: its settings; `host`, `port` and `drain_timeout` are the server's and not read here.

    Returns:
        An ASGI application. Its lifespan opens the connections and starts the health checks, so the server must run
        it (as the main application: Starlette runs no lifespan of a mounted one).
    """
    router = Router(config, Pool("prefill", config.prefill), Pool("decode", config.decode))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with _new_client() as client, watched(client, (router.prefill, router.decode), config):
            router.client = client
            try:
                yield
            finally:
                router.client = None
                _log.info("stopped: %s", router.counters)

    app = Starlette(
        routes=[
            Route("/v1/completions", router, methods=["POST"]),
            Route("/v1/chat/completions", router, methods=["POST"]),
            Route("/v1/models", _models, methods=["GET"]),
            Route("/health", _health, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _http_error, 500: _http_error},
        lifespan=lifespan,
    )
    app.state.router = router
    return app
