# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The ways to move blocks that are compared: one file each, imported only in the processes that run it."""
