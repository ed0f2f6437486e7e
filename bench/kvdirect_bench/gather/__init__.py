# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Rows by id, from two processes that keep them: by kvtransfer.rows, by others, and taken from memory here."""
