# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The serving benchmark: whole requests through real vLLM engines, aggregated and disaggregated, interleaved."""
