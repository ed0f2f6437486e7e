# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Where an owner's scheduler process answers readers; client.py is the other end.

Both compare fingerprints field by field and refuse with the field and both values. Nothing that arrives can end the
owner's thread: what is not a hello is counted and dropped, or answered with a refusal.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING

import zmq

from kvdirect.errors import WireError
from kvdirect.fingerprint import PROTOCOL_VERSION, first_difference
from kvdirect.hosts import endpoint, is_loopback, resolve
from kvdirect.log import logger
from kvtransfer.errors import ConfigError

from .messages import MAX_MESSAGE, NOT_READY, Hello, Refusal, Welcome, pack, unpack, version_of

if TYPE_CHECKING:
    from collections.abc import Sequence

# A message of ours is one frame; whoever sends more than identity, delimiter and one is not a reader.
MAX_FRAMES = 3


class HandshakeServer:
    """Answers readers, from a thread of its own, on one address.

    Attributes:
        port: The port it is bound to.
        counters: Welcomed, refused and dropped messages since the start.
    """

    def __init__(self, host: str, port: int) -> None:
        """Bind `host` (port 0: any free one) and start to answer; until `offer` readers are told to come back.

        Raises:
            ConfigError: The port is taken, or the host is not one of ours.
        """
        self._offer: Welcome | None = None
        self.counters = {"welcomed": 0, "refused": 0, "dropped": 0}
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
        self._socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
        self._socket.setsockopt(zmq.RCVHWM, 256)
        self._socket.setsockopt(zmq.SNDHWM, 256)
        try:
            self.port = self._bind(host, port)
        except ConfigError:
            self._context.destroy(linger=0)
            raise
        self._stop = threading.Event()
        self._wakeup, self._waker = socket.socketpair()  # close() ends the thread's wait for messages
        self._thread = threading.Thread(target=self._serve, name="kvdirect-handshake", daemon=True)
        self._thread.start()

    def offer(self, welcome: Welcome) -> None:
        """From now on, answer readers whose fingerprint is the same with this."""
        self._offer = welcome

    def close(self) -> None:
        """Stop answering and free the port. Idempotent."""
        self._stop.set()
        self._waker.close()
        self._thread.join(timeout=5.0)
        self._wakeup.close()
        self._context.destroy(linger=0)

    def _bind(self, host: str, port: int) -> int:
        address = _own_address(host)
        try:
            self._socket.setsockopt(zmq.IPV6, ":" in address)
            self._socket.bind(f"tcp://{endpoint(address, port or '*')}")
        except zmq.ZMQError as error:
            raise _cannot_bind(host, address, port, error) from None
        if not is_loopback(address):
            logger.warning(
                "handshakes are answered on %s, not on loopback, and without keys: whoever reaches the "
                "port is admitted, and an admitted peer is trusted with this process. Use a private network.",
                address,
            )
        return int(self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wakeup, zmq.POLLIN)
        while not self._stop.is_set():
            try:
                poller.poll()
                if self._stop.is_set():
                    return
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
                reply = self._answer(frames)
                if reply is not None:
                    self._socket.send_multipart([*frames[:-1], reply], zmq.NOBLOCK)
            except zmq.Again:
                self.counters["dropped"] += 1
            except zmq.ZMQError:
                if self._stop.is_set():
                    return
                logger.exception("handshake socket")
                time.sleep(0.2)
            except Exception:  # noqa: BLE001  (whatever a stranger sent, the next reader must get an answer)
                self.counters["dropped"] += 1
                logger.exception("a handshake message could not be handled")

    def _answer(self, frames: Sequence[bytes]) -> bytes | None:
        """The reply to one message; None: it is none of ours."""
        if not 2 <= len(frames) <= MAX_FRAMES:
            self.counters["dropped"] += 1
            return None
        try:
            version = version_of(frames[-1])
            if version != PROTOCOL_VERSION:
                return self._refuse("protocol_version", str(PROTOCOL_VERSION), str(version))
            message = unpack(frames[-1])
        except WireError as error:
            self.counters["dropped"] += 1
            logger.debug("dropped a handshake message: %s", error)
            return None
        if not isinstance(message, Hello):
            self.counters["dropped"] += 1
            return None
        return self._decide(message)

    def _decide(self, hello: Hello) -> bytes:
        offer = self._offer
        if offer is None:
            return pack(Refusal(NOT_READY, "starting", "connecting"))
        difference = first_difference(offer.fingerprint, hello.fingerprint)
        if difference is not None:
            return self._refuse(*difference)
        self.counters["welcomed"] += 1
        return pack(offer)

    def _refuse(self, name: str, ours: str, theirs: str) -> bytes:
        self.counters["refused"] += 1
        logger.warning(
            "refused a reader: %s is %s here and %s there", _one_line(name), _one_line(ours), _one_line(theirs)
        )
        return pack(Refusal(name, ours[:1024], theirs[:1024]))


def _own_address(host: str) -> str:
    try:
        return resolve(host)
    except OSError as error:
        raise ConfigError(
            f"host={host!r} does not resolve to an address",
            operation="listen for handshakes",
            status=str(error),
            hint="Set host to an address of this machine, or to a name that this machine and its readers resolve",
        ) from None


def _cannot_bind(host: str, address: str, port: int, error: zmq.ZMQError) -> ConfigError:
    if error.errno == zmq.EADDRINUSE:
        problem = "the port is taken, probably by another engine on this host"
        hint = "Set kv_port=0 for any free port, or give each engine a kv_port of its own"
    else:
        problem = "cannot be bound" + (f" ({host} is {address})" if address != host else "")
        hint = "The host must be an address of this machine (`ip address` lists them)"
    return ConfigError(
        f"kv_port={port} on host {host}: {problem}", operation="listen for handshakes", status=str(error), hint=hint
    )


def _one_line(value: str) -> str:
    """A value that may be a stranger's, for the log."""
    return repr(value[:200])[1:-1]
