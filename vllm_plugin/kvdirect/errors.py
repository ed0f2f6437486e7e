# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Failures a sub-command expects, told to the user in one line."""


class CommandError(Exception):
    """A command could not do its work; the message says what was tried and what to do about it."""

    status = 1


class UsageError(CommandError):
    """The command line asks for something impossible."""

    status = 2
