// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#include "check.h"

// Usage: kvdirect_tests [part of a test's name]
int main(int argc, char** argv) { return kvdirect::check::run(argc > 1 ? argv[1] : ""); }
