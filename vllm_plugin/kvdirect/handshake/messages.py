# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The handshake's messages, taken apart strictly: sizes are bounded, types checked, and an error names the field."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated

import msgspec

from kvdirect.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Sequence

# Six fields with names and numbers, and a model's name, which may be a path of 4 KiB.
MAX_HELLO = 16 << 10
MAX_ANSWER = 32 << 20  # has the maps of all ranks
MAX_REFUSAL = 16 << 10
MAX_CLAIMS = 256
MAX_HOLD_MS = 10_000  # for which an owner keeps a question whose answer would be the last one once more
# What an owner says of a claim without a ticket: it never heard of it, its prefill runs or waits, there will be none.
UNKNOWN, RUNNING, NONE = 0, 1, 2
# What a refusal names where it is only too early.
NOT_READY = "ready"
# And where the reader has no key, and the owner hears only those that have.
KEYS = "keys"
# Or is another user's, and there are no keys.
USER = "user"

_Short = Annotated[str, msgspec.Meta(max_length=256)]
_Text = Annotated[str, msgspec.Meta(max_length=4096)]
_Fields = Annotated[tuple[tuple[_Short, _Text], ...], msgspec.Meta(max_length=64)]
_Word = Annotated[int, msgspec.Meta(ge=0)]
_Sizes = Annotated[tuple[Annotated[int, msgspec.Meta(ge=1, le=1 << 31)], ...], msgspec.Meta(max_length=256)]
_Claim = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
_Claims = Annotated[tuple[_Claim, ...], msgspec.Meta(min_length=1, max_length=MAX_CLAIMS)]
_Answers = Annotated[
    tuple[bytes | Annotated[int, msgspec.Meta(ge=0, le=2)], ...], msgspec.Meta(min_length=1, max_length=MAX_CLAIMS)
]
_Digest = Annotated[bytes, msgspec.Meta(max_length=16)]
_Descriptors = Annotated[tuple[bytes, ...], msgspec.Meta(min_length=1, max_length=4096)]


class Hello(msgspec.Struct, frozen=True, tag="hello", forbid_unknown_fields=True):
    """A reader introduces itself: its engine, and what its cache is of."""

    engine_id: _Short
    fingerprint: _Fields


class Welcome(msgspec.Struct, frozen=True, tag="welcome", forbid_unknown_fields=True):
    """The owner agrees: its identity, its own fingerprint, and the descriptors that open its ranks' engines.

    Attributes:
        block_sizes: Per cache group, tokens in a block as tickets number them.
        kernel_blocks: Per cache group, blocks of the ranks' maps in one of these.
        descriptors: By rank, the first pipeline stage's first.
    """

    engine_id: _Short
    incarnation: _Word
    fingerprint: _Fields
    block_sizes: _Sizes
    kernel_blocks: _Sizes
    descriptors: _Descriptors


class Refusal(msgspec.Struct, frozen=True, tag="refusal", forbid_unknown_fields=True):
    """The owner disagrees. `field` says about what; this message keeps its form in every protocol version."""

    field: _Short
    owner_value: _Text
    reader_value: _Text


class Resolve(msgspec.Struct, frozen=True, tag="resolve", forbid_unknown_fields=True):
    """A reader asks which tickets prefills came to that were asked for under these claims.

    Attributes:
        streamed: It takes the ticket of a prefill that runs still, too (`kvdirect_so_far`).
        unlike: The `digest` of what it knows already: the answer is to be another one.
        hold_ms: For so long the owner waits for one, and then answers as it is.
    """

    claims: _Claims
    streamed: bool = False
    unlike: _Digest = b""
    hold_ms: Annotated[int, msgspec.Meta(ge=0, le=MAX_HOLD_MS)] = 0


class Tickets(msgspec.Struct, frozen=True, tag="tickets", forbid_unknown_fields=True):
    """The owner's answer: for each claim, in order, the ticket as JSON, or UNKNOWN, RUNNING or NONE."""

    answers: _Answers


Message = Hello | Welcome | Refusal | Resolve | Tickets
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
_encoder = msgspec.msgpack.Encoder()


def pack(message: Message) -> bytes:
    """A message as bytes."""
    return _encoder.encode(message)


def digest(answers: Sequence[bytes | int]) -> bytes:
    """What stands for these answers to claims in the next question, 16 bytes."""
    return blake2b(_encoder.encode(list(answers)), digest_size=16).digest()


def unpack(body: bytes | bytearray) -> Message:
    """The message in these bytes.

    Raises:
        WireError: Naming the field that is missing, too large or of another type.
    """
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"message: {error}") from None
