// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "cuda/copy_image.h"

// KVDIRECT_COPY_FATBIN: the file that nvcc made of copy_kernel.cu.
__asm__(
    ".section .rodata\n"
    ".balign 64\n"
    ".global kvdirect_copy_fatbin\n"
    ".hidden kvdirect_copy_fatbin\n"
    "kvdirect_copy_fatbin:\n"
    ".incbin \"" KVDIRECT_COPY_FATBIN
    "\"\n"
    ".previous\n");
