# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""vLLM's cache described to the transfer library: layers, shards, block tables."""
