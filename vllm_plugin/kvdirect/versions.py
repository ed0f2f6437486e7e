# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The range of vLLM versions that the connector is tested with, and what it says outside of it.

What only some versions have is looked for where it is used; versions are compared here and nowhere else. Below the
range vLLM lacks or names otherwise what the connector needs, so it is refused before it can fail half-way. Above
the range nothing is known, so it is tried.
"""

from __future__ import annotations

import re

OLDEST = (0, 30)
NEWEST = (0, 33)
TESTED = "0.30 to 0.33"


def refuse_older(found: str) -> None:
    """Accept this version of vLLM, or say why not.

    Raises:
        ConfigError: It is older than the range.
    """
    release = _release(found)
    if release is not None and release < OLDEST:
        raise _refusal("is too old for it", found)


def refuse_without(found: str, missing: ImportError) -> Exception:
    """The error for a vLLM that lacks something the connector cannot do without."""
    return _refusal(f"does not fit: {missing}", found)


def warning(found: str) -> str:
    """What the log should say about this version of vLLM; empty for those that are tested."""
    release = _release(found)
    if release is None:
        return f"vLLM {found} is no release; the connector is tested with {TESTED}"
    if release > NEWEST:
        return f"vLLM {found} is newer than what the connector is tested with, {TESTED}"
    return ""


def _release(found: str) -> tuple[int, int] | None:
    """Major and minor version, or None where there is no telling.

    Builds from a checkout without tags call themselves "dev" or "0.1.dev1+g1234abc", whatever they are built from.
    """
    match = re.match(r"(\d+)\.(\d+)(?!\d|\.?dev)", found)
    return (int(match[1]), int(match[2])) if match else None


def _refusal(reason: str, found: str) -> Exception:
    from kvtransfer.errors import ConfigError  # noqa: PLC0415  (native code stays out of the API server)

    return ConfigError(
        f"vLLM {found} {reason}; it is tested with {TESTED}",
        operation="load the kvdirect connector",
        hint="Install one of these versions, or start vLLM without the connector",
    )
