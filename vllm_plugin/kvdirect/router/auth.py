# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The admin token: a shared secret in a file, compared without telling how much of it was right."""

from __future__ import annotations

import hmac
import stat
from pathlib import Path

from kvdirect.errors import UsageError

_SHORTEST = 16  # characters
_LONGEST = 4096
TOKEN_FORM = f"{_SHORTEST} to {_LONGEST} printable ASCII characters without blanks"


def read_token(option: str, path: str, *, shortest: int = _SHORTEST) -> str:
    """Read the admin token, or another secret, from a file; blanks and line ends around it do not count.

    Args:
        option: The command-line option that named the file, for the error.
        path: The file.
        shortest: Characters that it must have.

    Raises:
        UsageError: It cannot be read, or holds nothing that can serve as a token. The token is never in the message.
    """
    wrong = f"{option} {path}"
    remedy = f"make one with: (umask 077; openssl rand -hex 32 > {path})"
    try:
        with Path(path).open("rb") as file:
            raw = file.read(_LONGEST + 1)
    except OSError as error:
        raise UsageError(f"{wrong}: {error.strerror or error}; {remedy}") from error
    token = raw.decode("latin-1").strip()
    if not usable_token(token, shortest):
        form = TOKEN_FORM.replace(str(_SHORTEST), str(shortest), 1)
        raise UsageError(f"{wrong}: no usable token in it; expected {form}; {remedy}")
    return token


def usable_token(token: str, shortest: int = _SHORTEST) -> bool:
    """Whether a string can serve as the admin token, or an API key."""
    return shortest <= len(token) <= _LONGEST and all("!" <= character <= "~" for character in token)


def readable_by_others(path: str) -> bool:
    """Whether users other than its owner and group may read the file."""
    try:
        return bool(Path(path).stat().st_mode & stat.S_IROTH)
    except OSError:
        return False  # who reads it says what is wrong


def token_matches(expected: str, authorization: bytes) -> bool:
    """Whether an Authorization header presents the token, in time that does not depend on where it differs."""
    return hmac.compare_digest(bearer(authorization), expected.encode("ascii"))


def bearer(authorization: bytes) -> bytes:
    """The token that an Authorization header presents, or nothing."""
    scheme, _, given = authorization.partition(b" ")
    return given.strip() if scheme.lower() == b"bearer" else b""
