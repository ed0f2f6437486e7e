# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""How two engines meet: an owner answers, a reader asks, both compare what they are."""
