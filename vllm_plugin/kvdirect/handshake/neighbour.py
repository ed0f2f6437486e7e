# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Whose process is at the other end of a TCP connection within this machine: the kernel knows, by sock_diag(7)."""

from __future__ import annotations

import socket
import struct

from kvtransfer.errors import ConfigError

_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG (linux/netlink.h)
_BY_FAMILY, _REQUEST = 20, 1  # SOCK_DIAG_BY_FAMILY (linux/sock_diag.h), NLM_F_REQUEST
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port
# struct inet_diag_req_v2 (linux/inet_diag.h): family, protocol, extensions, padding, states; then the socket: its port
# and its peer's, its address and its peer's, interface, and a cookie, all ones for any.
_REQUEST_V2, _PORTS, _ANY = (
    struct.Struct("=BBBBI"),
    struct.Struct("!HH"),
    struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF),
)
_USER_AND_INODE = struct.Struct("=II")
_USER_OFFSET = _HEADER.size + 64  # of struct inet_diag_msg's idiag_uid
_SECONDS = 1.0


class Neighbours:
    """Asks the kernel, over one socket, which is there before descriptors run out."""

    def __init__(self) -> None:
        """Open the socket.

        Raises:
            ConfigError: This kernel has no such sockets, or the process has no descriptor left.
        """
        try:
            self._kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _SOCK_DIAG)
        except OSError as error:
            raise ConfigError(
                "without keys only processes of the same user are dealt with, and the kernel does not say whose one is",
                operation="handshake",
                status=str(error),
                hint="Set key_file and peers_file; or, on a machine that nobody else uses, insecure_network",
            ) from None
        self._kernel.settimeout(_SECONDS)
        self._asked = 0

    def user_of_peer(self, sock: socket.socket) -> int | None:
        """The user id of the process that holds the other end.

        Args:
            sock: A connected TCP socket.

        Returns:
            None: That end is not in this network namespace, nobody has it (yet, or any more), or the kernel does not
            say.
        """
        self._asked += 1
        try:
            request = _request(sock)
            self._kernel.send(_HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _REQUEST, self._asked, 0) + request)
            reply = self._kernel.recv(4096)
            while _HEADER.unpack_from(reply)[3] != self._asked:  # of a question whose time was over
                reply = self._kernel.recv(4096)
        except OSError:
            return None
        if len(reply) < _USER_OFFSET + _USER_AND_INODE.size or _HEADER.unpack_from(reply)[1] != _BY_FAMILY:
            return None
        user, inode = _USER_AND_INODE.unpack_from(reply, _USER_OFFSET)
        return int(user) if inode else None

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._kernel.close()

    def __enter__(self) -> Neighbours:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _request(sock: socket.socket) -> bytes:
    ours, theirs = sock.getsockname(), sock.getpeername()
    places = (socket.inet_pton(sock.family, place[0]).ljust(16, b"\0") for place in (theirs, ours))
    what = _REQUEST_V2.pack(sock.family, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF)
    return what + _PORTS.pack(theirs[1], ours[1]) + b"".join(places) + _ANY
