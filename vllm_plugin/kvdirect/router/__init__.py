# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The router behind `kvdirect proxy`: OpenAI requests over prefill and decode instances."""
