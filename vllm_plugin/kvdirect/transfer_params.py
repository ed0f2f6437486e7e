# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The ticket: a request's `kv_transfer_params`, which say where its prompt's cache lies.

They come from outside and are taken apart strictly; an error names the field. Numbers may have become doubles on the
way (routers written in Go), so 14579.0 is 14579; what does not fit a double travels as text in `kvdirect_lease`.
"""

from __future__ import annotations

import hashlib
import re
import reprlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from .errors import WireError
from .hosts import unbracketed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

LEASE_VERSION = 1
LEASE_KEY = "kvdirect_lease"
PROMPT_KEY = "kvdirect_prompt"
RANK_KEY = "kvdirect_dp_rank"
# What a router makes up for a prefill, so that it can give the cache back without having seen the ticket.
CLAIM_KEY = "kvdirect_claim"
# The same in the words of Mooncake's connector, which llm-d's sidecar uses: any text, and where the prefill is.
TRANSFER_KEY, BOOTSTRAP_KEY = "transfer_id", "remote_bootstrap_addr"
# In a ticket of a prefill that runs still: how far its block ids reach, in positions; the rest comes later.
SO_FAR_KEY = "kvdirect_so_far"
MAX_BLOCKS = 1 << 20
MAX_SLOTS = 1 << 16
# Sets this digest apart from others, its own first form among them, which knew token ids only.
_DIGEST = b"kvdirect prompt2"

# Who knows it may end the lease: a router's are of 128 random bits.
_LONGEST_TRANSFER = 256
_TRANSFER = b"kvdirect xfer"
_CLAIM = re.compile(r"[0-9a-f]{32}")
_LEASE = re.compile(r"([0-9a-f]{1,4}):([0-9a-f]{1,16}):([0-9a-f]{1,8}):([0-9a-f]{1,16}):([0-9a-f]{1,4})")


@dataclass(frozen=True, slots=True)
class RemoteLease:
    """A lease as a ticket names it: one string of hexadecimal words."""

    incarnation: int
    slot: int
    epoch: int
    ranks: int

    def encode(self) -> str:
        """`version:incarnation:slot:epoch:ranks`."""
        return f"{LEASE_VERSION:x}:{self.incarnation:016x}:{self.slot:x}:{self.epoch:016x}:{self.ranks:x}"

    @classmethod
    def decode(cls, text: str) -> RemoteLease:
        """The lease in a string.

        Raises:
            WireError: Another version, or not a lease at all.
        """
        match = _LEASE.fullmatch(text)
        if match is None:
            raise WireError(f"{LEASE_KEY}: expected version:incarnation:slot:epoch:ranks in hex, got {text[:80]!r}")
        version, incarnation, slot, epoch, ranks = (int(word, 16) for word in match.groups())
        if version != LEASE_VERSION:
            raise WireError(f"{LEASE_KEY}: version {version}, this engine speaks {LEASE_VERSION}")
        if slot >= MAX_SLOTS or epoch == 0 or ranks == 0:
            raise WireError(f"{LEASE_KEY}: slot below {MAX_SLOTS}, epoch and ranks above 0 expected, got {text!r}")
        return cls(incarnation, slot, epoch, ranks)


@dataclass(frozen=True, slots=True)
class RemotePrefill:
    """Where a prompt's cache lies: what a decode request's `kv_transfer_params` say.

    Attributes:
        blocks: One list of block ids per transferred cache group; 0 is vLLM's null block.
        num_tokens: Positions whose cache is final over there.
        prompt: Digest of what the cache of these positions depends on (`prompt_digest`); empty: none was sent.
        so_far: Of a prefill that runs still: `blocks` are those of so many positions, and of caches that forget none.
    """

    host: str
    port: int
    engine_id: str
    request_id: str
    blocks: tuple[tuple[int, ...], ...]
    num_tokens: int
    lease: RemoteLease
    prompt: str = ""
    so_far: int | None = None


def wants(params: Mapping[str, Any] | None, key: str) -> bool:
    """A flag of `kv_transfer_params`; absent and null mean no.

    Raises:
        WireError: The value is no truth value.
    """
    value = (params or {}).get(key)
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    raise WireError(f"kv_transfer_params: {key}: expected true or false, got {_shown(value)}")


def parse_remote_prefill(params: Mapping[str, Any]) -> RemotePrefill:
    """Take apart the parameters of a request with `do_remote_prefill`; keys of other connectors are ignored.

    Raises:
        WireError: Naming the key that is missing or wrong.
    """
    lease = RemoteLease.decode(_text(params, LEASE_KEY))
    return RemotePrefill(
        host=unbracketed(_text(params, "remote_host")),
        port=_integer(params, "remote_port", 1, 65535),
        engine_id=_text(params, "remote_engine_id"),
        request_id=_text(params, "remote_request_id"),
        blocks=_block_ids(params),
        num_tokens=_integer(params, "remote_num_tokens", 1, 2**31),
        lease=lease,
        prompt=_text(params, PROMPT_KEY) if params.get(PROMPT_KEY) is not None else "",
        so_far=_integer(params, SO_FAR_KEY, 1, 2**31) if params.get(SO_FAR_KEY) is not None else None,
    )


def parse_awaited(params: Mapping[str, Any]) -> tuple[str, int, str] | None:
    """Host and port of the owner, and the claim, of a request whose ticket is to come; None: it has no claim.

    Where Mooncake's words are used, the owner is where `GET /query` was answered: its handshake port.

    Raises:
        WireError: Naming the key that is missing or wrong.
    """
    claim = claim_in(params)
    if params.get(CLAIM_KEY) is None:
        if not claim or params.get(BOOTSTRAP_KEY) is None:
            return None
        return *_bootstrap(params), claim
    if not claim:
        raise WireError(f"{CLAIM_KEY}: expected 32 hexadecimal digits, got {_shown(params[CLAIM_KEY])}")
    return unbracketed(_text(params, "remote_host")), _integer(params, "remote_port", 1, 65535), claim


def claim_in(params: Mapping[str, Any] | None) -> str:
    """The claim under which a prefill was asked for; empty: none that can be used."""
    params = params or {}
    claim = params.get(CLAIM_KEY)
    if claim is not None:
        return claim if isinstance(claim, str) and _CLAIM.fullmatch(claim) else ""
    transfer = params.get(TRANSFER_KEY)
    if not isinstance(transfer, str) or not 0 < len(transfer) <= _LONGEST_TRANSFER:
        return ""
    return hashlib.blake2b(transfer.encode(errors="replace"), digest_size=16, person=_TRANSFER).hexdigest()


def _bootstrap(params: Mapping[str, Any]) -> tuple[str, int]:
    text = _text(params, BOOTSTRAP_KEY)
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        if parts.scheme == "http" and parts.hostname and parts.port:
            return parts.hostname, parts.port
    except ValueError:
        pass
    raise WireError(f"{BOOTSTRAP_KEY}: expected http://HOST:PORT, got {_shown(text)}")


def prompt_digest(
    token_ids: Sequence[int], epoch: int, conditions: Iterable[Sequence[str | int | bytes | memoryview]] = ()
) -> str:
    """16 hexadecimal digits by which two engines tell whether they mean the same prompt.

    Without it a decode request with other tokens (another chat template, another tokenizer, a list of prompts under one
    ticket), another adapter or another image would be answered from a stranger's cache, and that cache would be kept
    for later prompts. The digest is keyed by the lease's epoch, so that equal prompts are not told by it.

    Args:
        token_ids: Shape (n,).
        epoch: Of the lease they are under.
        conditions: What else the cache of these tokens depends on: for each its kind, then values, as many as the kind
            has. Numbers are below 2**64.
    """
    digest = hashlib.blake2b(digest_size=8, key=epoch.to_bytes(8, "little"), person=_DIGEST)
    # Each value behind its length, so that no two lists of them are the same bytes.
    ids = np.asarray(token_ids, dtype="<i8").tobytes()
    for value in (ids, *(value for condition in conditions for value in condition)):
        data = _bytes(value)
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def _bytes(value: str | int | bytes | memoryview) -> bytes | memoryview:
    if isinstance(value, int):
        return value.to_bytes(8, "little")
    # Clients may send text that is no valid Unicode.
    return value.encode(errors="surrogatepass") if isinstance(value, str) else value


def _text(params: Mapping[str, Any], key: str) -> str:
    value = params.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= 256:
        raise WireError(f"kv_transfer_params: {key}: expected a string of 1 to 256 characters, got {_shown(value)}")
    return value


def _integer(params: Mapping[str, Any], key: str, low: int, high: int) -> int:
    value = params.get(key)
    number = _whole(value)
    if number is None or not low <= number <= high:
        raise WireError(f"kv_transfer_params: {key}: expected a whole number {low} to {high}, got {_shown(value)}")
    return number


def _whole(value: object) -> int | None:
    """An int, or a double that is one."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) else None


def _block_ids(params: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    key = "remote_block_ids"
    groups = params.get(key)
    if not isinstance(groups, list | tuple) or not groups or len(groups) > 256:
        raise WireError(f"kv_transfer_params: {key}: expected a list per cache group, got {_shown(groups)}")
    tables = []
    for group in groups:
        if not isinstance(group, list | tuple) or len(group) > MAX_BLOCKS:
            raise WireError(f"kv_transfer_params: {key}: expected lists of block ids, got {_shown(group)}")
        table = [_whole(item) for item in group]
        bad = next((i for i, item in enumerate(table) if item is None or not 0 <= item < 2**31), None)
        if bad is not None:
            raise WireError(f"kv_transfer_params: {key}: expected whole numbers from 0, got {_shown(group[bad])}")
        tables.append(tuple(item for item in table if item is not None))
    return tuple(tables)


def _shown(value: object) -> str:
    """A value of any size for an error; of lists and text, only as much is looked at as is shown."""
    try:
        text = reprlib.repr(value)
    except ValueError:  # Python writes no integers of more than 4300 digits
        return f"{type(value).__name__} with a number of thousands of digits"
    return text if len(text) <= 80 else text[:77] + "..."
