# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Failures that are expected: a sub-command's, told to the user in one line, and of what comes from outside."""

from __future__ import annotations


class CommandError(Exception):
    """A command could not do its work; the message says what was tried and what to do about it."""

    status = 1


class UsageError(CommandError):
    """The command line asks for something impossible."""

    status = 2


class WireError(ValueError):
    """Bytes or parameters from outside that are not what the protocol says; the message names the field."""
