# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Whether two engines mean the same prompt: a digest of its tokens travels with the ticket.

Without it a decode request with other tokens (another chat template, another tokenizer, a list of prompts under one
ticket) would be answered from a stranger's cache, and that cache would be kept for later prompts.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


def prompt_digest(token_ids: Sequence[int], epoch: int) -> str:
    """16 hexadecimal digits for these tokens; keyed by the lease's epoch, so that equal prompts are not told by it.

    Args:
        token_ids: shape (n,).
        epoch: of the lease they are under.
    """
    data = np.asarray(token_ids, dtype="<i8").tobytes()
    return hashlib.blake2b(data, digest_size=8, key=epoch.to_bytes(8, "little")).hexdigest()
