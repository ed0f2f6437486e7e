# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A trace that shifts, served by real engines whose roles change, beside its simulation."""
