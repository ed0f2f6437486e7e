# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The handshake port: bound to one address, accepting without waiting."""

from __future__ import annotations

import errno
import socket

from kvdirect.hosts import is_loopback, resolve
from kvdirect.log import SeldomLog, logger
from kvtransfer.errors import ConfigError

BACKLOG = 1024
# Bytes that the kernel keeps for one connection in either direction (it takes double, for its own needs).
KERNEL_BYTES_IN = 32 << 10
KERNEL_BYTES_OUT = 256 << 10
_LOOKUP_SECONDS = 15.0
_SHORT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """The socket that strangers connect to.

    Attributes:
        port: The port it is bound to.
        starved: The last connection could not be accepted for want of descriptors or memory; it still waits.
    """

    def __init__(self, host: str, port: int, *, keys: bool = False) -> None:
        """Bind `host`, at port 0 to any free one; `keys`: only who has one is heard.

        Raises:
            ConfigError: The port is taken, or the host is not one of ours.
        """
        address = _own_address(host)
        self.starved = False
        self._log = SeldomLog()
        try:
            self._sock = _bound(address, port)
        except OSError as error:
            raise _cannot_bind(host, address, port, error) from None
        self.port = int(self._sock.getsockname()[1])
        if not keys and not is_loopback(address):
            logger.warning(
                "insecure_network: handshakes are answered on %s without keys: whoever reaches the port is admitted, "
                "and trusted with this process. Set key_file and peers_file instead.",
                address,
            )

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    def accept(self) -> tuple[socket.socket, tuple[str, int]] | None:
        """The next connection, which does not block; None: there is none now, or this process is `starved`."""
        self.starved = False
        try:
            sock, address = self._sock.accept()
        except BlockingIOError:
            return None
        except OSError as error:
            self.starved = error.errno in _SHORT_OF
            if self.starved:
                self._log.warning("a reader waits to be accepted: %s", error.strerror)
            return None  # else the stranger was gone before we came
        sock.setblocking(False)
        return sock, address

    def close(self) -> None:
        """Free the port. Idempotent."""
        self._sock.close()


def _bound(address: str, port: int) -> socket.socket:
    family, kind, protocol, _, place = socket.getaddrinfo(
        address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit both.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES_IN)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES_OUT)
        sock.bind(place)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _own_address(host: str) -> str:
    try:
        return resolve(host, _LOOKUP_SECONDS)
    except OSError as error:
        raise ConfigError(
            f"host={host!r} does not resolve to an address",
            operation="listen for handshakes",
            status=str(error),
            hint="Set host to an address of this machine, or to a name that this machine and its readers resolve",
        ) from None


def _cannot_bind(host: str, address: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        problem = "the port is taken, probably by another engine on this host"
        hint = "Set kv_port=0 for any free port, or give each engine a kv_port of its own"
    else:
        problem = "cannot be bound" + (f" ({host} is {address})" if address != host else "")
        hint = "The host must be an address of this machine (`ip address` lists them)"
    return ConfigError(
        f"kv_port={port} on host {host}: {problem}", operation="listen for handshakes", status=str(error), hint=hint
    )
