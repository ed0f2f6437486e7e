# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The errors of kvtransfer: one tree, each saying what was attempted, with whom, and what to do about it."""

from __future__ import annotations


class KVTransferError(Exception):
    """Base of every error this library raises on purpose.

    Attributes:
        operation: What was attempted ("connect", "pull"); may be empty, like the others.
        peer: With whom, as the user knows it.
        status: What the layer below said.
        hint: What to do about it.
    """

    operation: str = ""
    peer: str = ""
    status: str = ""
    hint: str = ""

    def __init__(self, message: str, *, operation: str = "", peer: str = "", status: str = "", hint: str = "") -> None:
        """Compose one sentence from the parts; `str(error)` is all of it."""
        super().__init__(_sentence(message, operation, peer, status, hint))
        self.operation, self.peer, self.status, self.hint = operation, peer, status, hint


class ConfigError(KVTransferError):
    """A setting or an argument is bad."""


class PlanError(KVTransferError):
    """Maps or block tables that cannot be carried exactly once."""


class CodecError(KVTransferError):
    """Bytes from outside that do not decode."""


class ConnectError(KVTransferError):
    """A peer could not be reached, or refused us."""


class MismatchError(ConnectError):
    """Both ends are reachable, and describe different things."""


class LaneError(ConnectError):
    """No permitted lane works to this peer."""


class PullError(KVTransferError):
    """A pull failed; its destination holds nothing that may be used."""


class LeaseExpired(PullError):  # noqa: N818  (reads as what happened)
    """The owner no longer promises these blocks."""


class PullTimeout(PullError):  # noqa: N818
    """The pull's own deadline passed."""


class PullCancelled(PullError):  # noqa: N818
    """The caller cancelled the pull."""


class PeerLost(PullError):  # noqa: N818
    """The peer went away."""


class DigestMismatch(PullError):  # noqa: N818
    """Other bytes arrived than the owner has; `status` has both digests."""


class TransportError(KVTransferError):
    """UCX or the kernel reported an error."""


class ClosedError(KVTransferError):
    """The engine, peer or pull is closed, or the process forked after the engine was made."""


class WaitTimeout(KVTransferError):  # noqa: N818
    """A wait's timeout passed; the pull itself goes on."""


class InvalidState(KVTransferError):  # noqa: N818
    """The result was asked for before the pull was done."""


_BY_CODE: dict[str, type[KVTransferError]] = {
    "config": ConfigError,
    "plan": PlanError,
    "codec": CodecError,
    "connect": ConnectError,
    "mismatch": MismatchError,
    "lane": LaneError,
    "lease_expired": LeaseExpired,
    "timeout": PullTimeout,
    "cancelled": PullCancelled,
    "peer_lost": PeerLost,
    "corrupt": DigestMismatch,
    "transport": TransportError,
    "closed": ClosedError,
    "wait_timeout": WaitTimeout,
    "invalid_state": InvalidState,
}


def from_native(code: str, message: str, operation: str, peer: str, status: str, hint: str) -> KVTransferError:
    """Make the exception for an error of the native core, whose message is the whole sentence already."""
    kind = _BY_CODE.get(code, KVTransferError)
    error = kind.__new__(kind, message)
    error.operation, error.peer, error.status, error.hint = operation, peer, status, hint
    return error


def _sentence(message: str, operation: str, peer: str, status: str, hint: str) -> str:
    text = f"{operation}: {message}" if operation else message
    if peer:
        text += f" [peer {peer}]"
    if status:
        text += f" [status: {status}]"
    if hint:
        text += f". {hint}"
    return text
