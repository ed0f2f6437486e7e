// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#pragma once

// The copy kernel for every GPU it was built for, as one fatbin.
extern "C" const unsigned char kvdirect_copy_fatbin[];
