# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Keys as files: `NAME.key`, which only its owner may read, and `NAME.pub`, which others add to their list of peers.

Both are PEM. A public part is a certificate that is signed by nobody but itself (Ed25519, RFC 8410): TLS wants one, and
peers compare it whole. Text outside of the PEM blocks is comment, so a list of peers is `cat a.pub b.pub`.
"""

from __future__ import annotations

import datetime as dt
import os
import ssl
import stat
from typing import TYPE_CHECKING

from kvtransfer.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

# Certificates that a list of peers may hold: TLS compares each that is presented with all of them.
MOST_PEERS = 4096
_MAX_BYTES = 8 << 20
# Lists of peers say who is trusted, dates do not: X.509 has a date for "never" (RFC 5280, section 4.1.2.5).
_NEVER = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)


def generate(path: Path, comment: str) -> Path:
    """Make a key: `path` with the private part (mode 0600), and beside it the public one, whose path is returned.

    Raises:
        ConfigError: One of the files is there, or cannot be written.
    """
    from cryptography import x509  # noqa: PLC0415  (here only)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, comment[:64] or "kvdirect")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(_NEVER)
        # Who is in a list vouches for nobody else (RFC 5280, section 4.2.1.9).
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, None)
    )
    certificate = made.public_bytes(Encoding.PEM)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = path.with_suffix(".pub")
    _write_new(path, private + certificate, 0o600)
    try:
        _write_new(public, f"# {comment}\n".encode() + certificate, 0o644)
    except ConfigError:
        path.unlink()
        raise
    return public


def check_private(path: Path) -> None:
    """Refuse a private key that others may read.

    Raises:
        ConfigError: It cannot be looked at, or others may.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(
            f"key {path}: {error.strerror}; make one with `kvdirect keygen {path}`", operation="keys"
        ) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(
            f"key {path}: others may read it (mode {stat.filemode(mode)}); chmod 600 {path}", operation="keys"
        )


def read_peers(path: Path) -> list[bytes]:
    """The certificates in a list of peers, as DER; at most MOST_PEERS.

    Raises:
        ConfigError: It cannot be read, holds none or too many, or something that is no certificate.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"peers {path}: {error.strerror}; it is the .pub files of all engines, one after another", operation="keys"
        ) from None
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    blocks = text.decode("utf-8", "replace").split(begin)[1:]
    if len(text) > _MAX_BYTES or len(blocks) > MOST_PEERS:
        raise bad(f"peers {path}: more than {MOST_PEERS} keys or {_MAX_BYTES} bytes")
    if not blocks:
        raise ConfigError(
            f"peers {path}: no key in it; it is the .pub files of all engines, one after another", operation="keys"
        )
    found = []
    for number, block in enumerate(blocks, 1):
        try:
            found.append(ssl.PEM_cert_to_DER_cert(begin + block.split(end)[0] + end))
        except ValueError as error:
            raise bad(f"peers {path}: key {number} of it cannot be read: {error}") from None
    return found


def bad(text: str) -> ConfigError:
    """What is wrong with a file."""
    return ConfigError(text, operation="keys")


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise ConfigError(
            f"{path} is there already; name another file, or take this one away", operation="keys"
        ) from None
    except OSError as error:
        raise bad(f"{path} cannot be written: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
