# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The handshake's messages, taken apart strictly: sizes are bounded, types checked, and an error names the field."""

from __future__ import annotations

import struct
from typing import Annotated

import msgspec

from kvdirect.errors import WireError
from kvdirect.fingerprint import PROTOCOL_VERSION

MAX_MESSAGE = 1 << 20
MAX_ANSWER = 32 << 20  # has the maps of all ranks
# What a refusal names where it is only too early.
NOT_READY = "ready"

_HEADER = struct.Struct("!4sH")
_MAGIC = b"KVDH"

_Short = Annotated[str, msgspec.Meta(max_length=256)]
_Text = Annotated[str, msgspec.Meta(max_length=4096)]
_Fields = Annotated[tuple[tuple[_Short, _Text], ...], msgspec.Meta(max_length=1024)]
_Word = Annotated[int, msgspec.Meta(ge=0)]
_Sizes = Annotated[tuple[Annotated[int, msgspec.Meta(ge=1, le=1 << 31)], ...], msgspec.Meta(max_length=256)]
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


Message = Hello | Welcome | Refusal
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
_encoder = msgspec.msgpack.Encoder()


def pack(message: Message) -> bytes:
    """A message as bytes, the protocol version before everything else."""
    return _HEADER.pack(_MAGIC, PROTOCOL_VERSION) + _encoder.encode(message)


def version_of(data: bytes, limit: int = MAX_MESSAGE) -> int:
    """The sender's protocol version; of more than `limit` bytes nothing is read.

    Raises:
        WireError: These are no bytes of ours.
    """
    if len(data) > limit:
        raise WireError(f"message: {len(data)} bytes, at most {limit} are read")
    if len(data) < _HEADER.size or data[:4] != _MAGIC:
        raise WireError("message: not a KVDirect handshake")
    return int(_HEADER.unpack_from(data)[1])


def unpack(data: bytes) -> Message:
    """The message in bytes that `version_of` accepted.

    Raises:
        WireError: Naming the field that is missing, too large or of another type.
    """
    try:
        return _decoder.decode(memoryview(data)[_HEADER.size :])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"message: {error}") from None
