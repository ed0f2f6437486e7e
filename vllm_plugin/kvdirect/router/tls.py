# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""HTTPS: a connection counts, and its time runs, from when it is made, not from the end of TLS's handshake."""

from __future__ import annotations

import asyncio
import ssl
from asyncio import sslproto
from typing import TYPE_CHECKING, Any

from kvdirect.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .config import ProxyConfig
    from .connections import Connections


def server_context(config: ProxyConfig) -> ssl.SSLContext | None:
    """What the server presents to clients; None: plain HTTP.

    Raises:
        UsageError: A file cannot be used.
    """
    if config.ssl_certfile is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile, password=_no_password)
    except (OSError, ValueError) as error:
        key = config.ssl_keyfile or "the key in it"
        raise UsageError(f"--ssl-certfile {config.ssl_certfile}, {key}: cannot be used: {error}") from error
    if config.ssl_ca_certs is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(config.ssl_ca_certs)
        except OSError as error:
            raise UsageError(f"--ssl-ca-certs {config.ssl_ca_certs}: cannot be used: {error}") from error
    return context


def _no_password() -> str:
    raise ValueError("it has a password; expected a key without one")  # else OpenSSL asks on the terminal


class TlsConnection(sslproto.SSLProtocol):
    """One client's connection, which is a stranger until its handshake is done; then its HTTP is served."""

    max_size = 32 << 10  # of the buffer that each has from its begin on, for what comes; asyncio's own is 256 KiB

    def __init__(
        self,
        connections: Connections,
        seconds: float,
        closing_seconds: float,
        context: ssl.SSLContext,
        http: asyncio.Protocol,
    ) -> None:
        super().__init__(
            asyncio.get_running_loop(),
            http,
            context,
            None,  # type: ignore[arg-type]  # nobody waits for the handshake, which typeshed does not know of
            server_side=True,
            ssl_handshake_timeout=seconds,  # type: ignore[arg-type]
            ssl_shutdown_timeout=closing_seconds,  # for what was written before the close, too
        )
        self._all = connections
        self._raw: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take it, or close it where there is no room."""
        self._raw = transport
        if self._all.admit(self):
            super().connection_made(transport)
        else:
            self._all.refuse()
            transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget it."""
        self._all.forget(self)
        super().connection_lost(exc)

    def give_way(self) -> None:
        """Close, since another connection needs the room and this one has not got through its handshake."""
        if self._raw is not None:
            self._raw.close()

    def _on_handshake_complete(self, handshake_exc: BaseException | None) -> None:
        self._all.forget(self)  # the HTTP connection counts itself
        super()._on_handshake_complete(handshake_exc)


def secured(
    connections: Connections,
    seconds: float,
    closing_seconds: float,
    context: ssl.SSLContext,
    http: Callable[..., asyncio.Protocol],
) -> Callable[..., asyncio.BaseProtocol]:
    """What makes connections of `http` over TLS.

    Args:
        connections: In which they count.
        seconds: For a handshake.
        closing_seconds: For a client to take what it was sent before the close.
        context: What is presented to clients.
        http: What is spoken within.
    """

    def make(**given: Any) -> asyncio.BaseProtocol:
        return TlsConnection(connections, seconds, closing_seconds, context, http(**given))

    return make
