# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""How requests, their prefills and their retries end: every value that a counter's label can have."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """How a request ended."""

    OK = "ok"  # answered 2xx or 3xx by an instance, to the end
    REFUSED = "refused"  # answered 4xx by the router: cannot be read, too large, too slow
    REFUSED_BY_INSTANCE = "refused_by_instance"  # answered 4xx by an instance
    LIMITED = "limited"  # answered 429: too many requests in flight
    NO_DECODE = "no_decode"  # answered 503: every decode instance is out, draining or full
    FAILED = "failed"  # a decode instance broke off or answered 5xx, and retries did not help
    TIMEOUT = "timeout"  # answered 504: a decode instance was silent too long
    STOPPING = "stopping"  # answered 503: the router stops
    CLIENT_GONE = "client_gone"  # the client left, or took nothing, before the end
    INTERNAL = "internal"  # answered 500: a mistake in the router


class PrefillOutcome(StrEnum):
    """Where a prompt was prefilled, and why not apart."""

    DISAGGREGATED = "disaggregated"  # decode was given a prefill instance's ticket
    LOCAL_REQUEST = "local_request"  # decode alone: the request cannot use another engine's cache
    LOCAL_NO_PREFILL = "local_no_prefill"  # decode alone: every prefill instance is out, draining or full
    LOCAL_UNREACHABLE = "local_unreachable"  # decode alone: no prefill instance took the connection
    LOCAL_BROKEN = "local_broken"  # decode alone: the connection to the prefill instance broke
    LOCAL_TIMEOUT = "local_timeout"  # decode alone: the prefill took too long
    LOCAL_FAILED = "local_failed"  # decode alone: the prefill instance answered with neither 2xx nor 4xx, or no JSON
    LOCAL_REFUSED = "local_refused"  # decode alone: the prefill instance answered 4xx, which decides for itself only
    LOCAL_NO_PARAMS = "local_no_params"  # decode alone: the prefill instance handed nothing over
    LOCAL_RETRY = "local_retry"  # decode alone: a decode instance failed with the ticket it was given


class ReturnOutcome(StrEnum):
    """What became of a ticket that nobody would use."""

    RETURNED = "returned"  # an engine took it back
    FAILED = "failed"  # no engine did: unreachable, late, or it answered otherwise; its cache ends by the lease
    DROPPED = "dropped"  # too many were under way


class RoleChange(StrEnum):
    """The role that an instance took."""

    PREFILL = "prefill"
    DECODE = "decode"


class RetryReason(StrEnum):
    """Why a request was sent to a decode instance again."""

    UNREACHABLE = "unreachable"  # the decode instance refused the connection, or went out during the prefill
    BROKEN = "broken"  # the decode instance broke off or aborted before the client was sent anything
    FAILED = "failed"  # the decode instance answered 5xx, and the client was sent nothing
    NO_MODEL = "no_model"  # the decode instance did not have the model, and another one has
