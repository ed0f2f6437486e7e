# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""TLS 1.3 between engines that know each other's keys: both sides present one, and take only those in their lists."""

from __future__ import annotations

import hashlib
import ssl
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvdirect.log import SeldomLog
from kvtransfer.errors import ConfigError

from .identity import bad, check_private, read_peers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Credentials:
    """What was read from the files.

    Attributes:
        server: For who is connected to.
        client: For who connects.
        listed: Certificates of peers, as DER.
    """

    server: ssl.SSLContext
    client: ssl.SSLContext
    listed: frozenset[bytes]

    def peer_of(self, sock: ssl.SSLSocket) -> str:
        """The fingerprint of the key at the other end: SHA-256 of its certificate.

        Raises:
            ssl.SSLCertVerificationError: It is not in the list itself; a certificate there may be one that OpenSSL lets
                vouch for others.
        """
        certificate = sock.getpeercert(binary_form=True) or b""
        if certificate not in self.listed:
            error = ssl.SSLCertVerificationError("somebody in the list vouches for it; it is not in it itself")
            error.reason = error.args[0]  # as OpenSSL's own have
            raise error
        return hashlib.sha256(certificate).hexdigest()


class Keys:
    """An engine's keys; files that change are read anew with the next connection, so keys change without a restart.

    To change one: add the new public part to every list, change the private file, take the old public part away.
    """

    def __init__(self, key: Path, peers: Path) -> None:
        """Read both.

        Raises:
            ConfigError: One cannot be used.
        """
        self._files = (key, peers)
        self._lock = threading.Lock()
        self._log = SeldomLog()
        self._seen = self._stamps()
        self._credentials = self._load()

    def now(self) -> Credentials:
        """As the files have them now, or had them when they could be used last."""
        with self._lock:
            stamps = self._stamps()
            if stamps != self._seen:
                self._seen = stamps
                try:
                    self._credentials = self._load()
                except ConfigError as error:
                    self._log.warning("keys that changed cannot be used, the former stay: %s", error)
            return self._credentials

    def _stamps(self) -> Sequence[tuple[int, int, int]]:
        found = []
        for file in self._files:
            try:
                status = file.stat()
                found.append((status.st_mtime_ns, status.st_size, status.st_ino))
            except OSError:
                found.append((0, 0, 0))
        return found

    def _load(self) -> Credentials:
        key, peers = self._files
        check_private(key)
        trusted = read_peers(peers)
        return Credentials(
            _context(ssl.PROTOCOL_TLS_SERVER, key, trusted, peers),
            _context(ssl.PROTOCOL_TLS_CLIENT, key, trusted, peers),
            frozenset(trusted),
        )


def _context(side: int, key: Path, trusted: Sequence[bytes], peers: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # an engine is its key, wherever it runs
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # each in the list is trusted for itself
    if side == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # nothing that was said once is good for another connection
    try:
        context.load_cert_chain(key)
    except (OSError, ssl.SSLError) as error:
        raise bad(f"key {key}: cannot be read as one: {error}") from None
    try:
        context.load_verify_locations(cadata=b"".join(trusted))
    except ssl.SSLError as error:
        raise bad(f"peers {peers}: cannot be read: {error}") from None
    return context
