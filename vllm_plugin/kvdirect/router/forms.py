# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Forms, which requests about audio are: passed on as they were sent, unless they would make an engine read a cache."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from starlette.formparsers import MultiPartException
from starlette.requests import Request

from .bodies import TRANSFER_PARAMS, RouterError
from .outcomes import Outcome

if TYPE_CHECKING:
    from starlette.types import Message

# The one field of vLLM's forms from which parameters reach a connector.
_FIELD = "vllm_xargs"


async def refuse_transfer_params(raw: bytes, content_type: bytes) -> None:
    """Refuse a form that has transfer parameters: they would make an instance dial whom the client names.

    It is read as engines read it, by the same parser. What is no form has none.

    Raises:
        RouterError: It has some, or it cannot be read.
    """

    async def receive() -> Message:
        return {"type": "http.request", "body": raw, "more_body": False}

    request = Request({"type": "http", "headers": [(b"content-type", content_type)]}, receive)
    try:
        async with request.form() as form:
            given = [value for value in form.getlist(_FIELD) if isinstance(value, str)]
    except MultiPartException as error:
        raise RouterError(400, f"the form cannot be read: {error.message}", outcome=Outcome.REFUSED) from error
    for value in given:
        try:
            extras = json.loads(value)  # all that engines take for JSON, NaN too
        except ValueError:
            continue  # the engine says what is wrong with it
        except RecursionError:
            raise RouterError(400, f"{_FIELD}: nested too deeply", outcome=Outcome.REFUSED) from None
        named = [name for name in TRANSFER_PARAMS if isinstance(extras, dict) and name in extras]
        if named:
            text = f"{_FIELD}: {named[0]} is the router's to set; leave it out"
            raise RouterError(400, text, outcome=Outcome.REFUSED)
