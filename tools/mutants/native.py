# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Faults of the core."""

from __future__ import annotations

from .mutant import Mutant

READ = "csrc/lanes/leased_read.cpp"
LEASE = "csrc/lease.cpp"
SERVER = "csrc/message/pull_server.cpp"
CLIENT = "csrc/message/pull_client.cpp"
ADMISSION = "csrc/session/owner_admission.cpp"
STREAM = "csrc/net/stream.cpp"

MUTANTS = (
    Mutant(
        "what has landed is accepted without a look at the lease",
        READ,
        (("      if (!final_positions()) {\n        check_deadline", "      if (false) {\n        check_deadline"),),
        cpp="no_order_of_events",
    ),
    Mutant(
        "the watermark is not looked at before the data",
        READ,
        (
            (
                "  if (*positions >= job.watermark) return std::nullopt;",
                "  if (*positions + 1 > 0) return std::nullopt;",
            ),
        ),
        cpp="no_order_of_events",
    ),
    Mutant(
        "a reader takes any epoch for its lease's",
        READ,
        (("  if (words->epoch == lease.epoch) return", "  if (words->epoch != 0) return"),),
        cpp="no_order_of_events",
    ),
    Mutant(
        "a thread's moves are not ordered before the last look",
        READ,
        (("    _lane->fence();\n", "    static_cast<void>(0);\n"),),
        cpp="what_cannot_be_ordered",
    ),
    Mutant(
        "a failed pull is quiet at once",
        "csrc/pull.cpp",
        (("    if (!failure) {\n      _hook = nullptr;\n", "    {\n      if (!failure) _hook = nullptr;\n"),),
        cpp="no_order_of_events",
    ),
    Mutant(
        "a lease's end leaves its epoch to readers",
        LEASE,
        (("    words[slot].epoch.store(0, std::memory_order_release);\n", ""),),
        cpp="no_reader_accepts_an_overwritten_block",
    ),
    Mutant(
        "a slot's new lease has the old one's watermark",
        LEASE,
        (("    words[lease.slot].watermark.store(0, std::memory_order_release);\n", ""),),
        cpp="new_lease_in_an_old_slot",
    ),
    Mutant(
        "the owner ignores the watermark",
        LEASE,
        (
            (
                "  return watermark < positions ? LeaseVerdict::not_yet : LeaseVerdict::valid;",
                "  return LeaseVerdict::valid;",
            ),
        ),
        cpp="verdict_follows",
    ),
    Mutant(
        "one reader's complete ends the lease of several",
        LEASE,
        (("  if (entry->completes >= entry->readers && entry->hold_until) _impl", "  if (entry->hold_until) _impl"),),
        cpp="complete_counts_readers",
    ),
    Mutant(
        "an overdue lease can be renewed",
        LEASE,
        (("  if (entry->deadline <= now) return false;\n", ""),),
        cpp="an_overdue_lease",
    ),
    Mutant(
        "renewals go beyond max_hold",
        LEASE,
        (("    entry.deadline = std::min(when, *entry.hold_until);", "    entry.deadline = when;"),),
        cpp="max_hold_counts",
    ),
    Mutant(
        "a slot is free before its end was taken",
        LEASE,
        (("    entry.state = State::ended;\n", "    entry.state = State::free;\n    candidates.push_back(slot);\n"),),
        cpp="reserve_until_full",
    ),
    Mutant(
        "the owner sends what the lease does not cover",
        SERVER,
        (("  if (!covered) {\n    ++_context", "  if (!covered && request.runs.empty()) {\n    ++_context"),),
        cpp="an_owner_sends_nothing",
        fuzz=("sessions",),
    ),
    Mutant(
        "the owner's last look at the lease is left out",
        SERVER,
        (("_context.leases->verdict(job.request.lease, job.request.watermark) == LeaseVerdict::valid;", "true;"),),
        cpp="an_owner_looks_at_the_lease_once_more",
    ),
    Mutant(
        "the reader takes a refusal for a verdict that all is well",
        CLIENT,
        (("  if (verdict.outcome == PullOutcome::valid && ", "  if (verdict.outcome != PullOutcome::failed && "),),
        cpp="a_refusal_fails_a_pull",
    ),
    Mutant(
        "a verdict counts though bytes are missing",
        CLIENT,
        (("  if (!running.valid || !running.cursor.complete()) return;", "  if (!running.valid) return;"),),
        cpp="a_verdict_counts_only_once",
    ),
    Mutant(
        "bytes count without a verdict",
        CLIENT,
        (("  if (!running.valid || !running.cursor.complete()) return;", "  if (!running.cursor.complete()) return;"),),
        cpp="bytes_count_only_once",
    ),
    Mutant(
        "a message may be as long as it says",
        STREAM,
        (('  if (length > _max_message) reader.fail("length", "is above the limit");\n', ""),),
        cpp="streams_",
    ),
    Mutant(
        "answers that nobody reads are kept without end",
        STREAM,
        (("  if (_waiting_bytes > max_waiting_bytes) give_up();\n", ""),),
        pytest=("tests/transfer/test_strangers.py", "-k", "never_reads_its_answers"),
    ),
    Mutant(
        "a session is for whichever engine listens at its address",
        ADMISSION,
        (("  if (hello.owner_incarnation != _options.incarnation) {", "  if (hello.owner_incarnation == 0) {"),),
        pytest=("tests/transfer/test_strangers.py", "-k", "looks_for_a_predecessor"),
    ),
    Mutant(
        "a session needs no right answer to its challenge",
        ADMISSION,
        (("  if (!same_secret(Answer::decode(body).proof, expected)) {", "  if (expected == Mac{}) {"),),
        pytest=("tests/transfer/test_admission.py", "-k", "recording"),
    ),
    Mutant(
        "an owner's challenge is always the same",
        ADMISSION,
        (("  connection.challenge = random_nonce();\n", ""),),
        pytest=("tests/transfer/test_admission.py", "-k", "recording"),
    ),
    Mutant(
        "a pass never ends",
        ADMISSION,
        (("hello.stream == 0 && hello.not_after < now) {", "hello.stream == 0 && now == 0) {"),),
        pytest=("tests/transfer/test_admission.py", "-k", "outlives_the_pass"),
    ),
    Mutant(
        "a reader takes any welcome",
        "csrc/wire/admission.cpp",
        (
            (
                "  if (!same_secret(owner_proof(key, hello, challenge, welcome), body.last(sizeof(Mac)))) return",
                "  if (key.empty()) return",
            ),
        ),
        pytest=("tests/transfer/test_admission.py", "-k", "took_an_owners_port"),
    ),
    Mutant(
        "a secret for shared memory outlives its session",
        "csrc/lanes/handoff_server.cpp",
        (
            (
                "  std::erase_if(_secrets, [&](const Secret& known) { return same_secret(known.token, secret); });\n",
                "  static_cast<void>(secret);\n",
            ),
        ),
        pytest=("tests/transfer/test_shm.py", "-k", "ends_with_its_session"),
    ),
    Mutant(
        "a digest is not compared",
        "csrc/proven_pull.cpp",
        (("  if (ours == theirs) {", "  if (ours.size() == theirs.size()) {"),),
        pytest=("tests/transfer/test_verify.py", "-k", "changed"),
    ),
    Mutant(
        "a digest is made without a look at the lease's blocks",
        SERVER,
        (("  if (!covered) {\n    ++_context", "  if (!covered && !job->hasher) {\n    ++_context"),),
        pytest=("tests/transfer/test_strangers.py", "-k", "holds_a_lease_on"),
    ),
    Mutant(
        "the destination is quiet while it is hashed",
        "csrc/proven_pull.cpp",
        (("  if (advance(Stage::over, Stage::over) == Stage::over) whole", "  whole"),),
        cpp="a_proven_pull_is_quiet",
    ),
    Mutant(
        "strangers are let in without end",
        "csrc/session/owner.cpp",
        (("  if (_unadmitted < DescriptorShare::unadmitted()) return;\n", "  return;\n"),),
        pytest=("tests/transfer/test_strangers.py", "-k", "a_crowd_of_strangers"),
    ),
    Mutant(
        "a descriptor's checksum is not compared",
        "csrc/wire/descriptor.cpp",
        (
            (
                '  if (reader.u64("checksum") != checksum(bytes.first(covered))) reader',
                '  if (reader.u64("checksum") == 1) reader',
            ),
        ),
        cpp="descriptor_survives_damage",
    ),
    Mutant(
        "a welcome's places may lie outside its memories",
        "csrc/wire/welcome.cpp",
        (("    io.require(place.memory < shm.memories.size() && place.offset", "    io.require(true || place.offset"),),
        cpp="protocol_refuses_values",
    ),
    # Of headers, which much is built from.
    Mutant(
        "a stripe that fails makes the whole pull quiet",
        "csrc/message/stripe.h",
        (("    if (_loud.fetch_sub(1) == 1) _pull->set_quiet();", "    _loud.fetch_sub(1), _pull->set_quiet();"),),
        cpp="a_divided_pull_fails",
    ),
    Mutant(
        "pulls of one reader take no account of what all may keep",
        "csrc/message/run_budget.h",
        (
            (
                "    if (_taken.fetch_add(runs) + runs <= _limit) return true;",
                "    if (_taken.fetch_add(runs) + 1 > 0) return true;",
            ),
        ),
        cpp="readers_that_ask_for_much",
    ),
    Mutant(
        "data lands wherever it says that it belongs",
        "csrc/message/receive_cursor.h",
        (("    return offset == _stripe.bytes() - _next.left() && bytes", "    return offset != 1 && bytes"),),
        cpp="landing_takes_only_the_next_bytes",
    ),
    Mutant(
        "a range lets readers have the blocks before it, too",
        "csrc/message/lease_extents.cpp",
        (("here.push_back({range.begin, range.end});", "here.push_back({0, range.end});"),),
        cpp="what_a_lease_covers",
    ),
    Mutant(
        "notes of one session have no bound",
        "csrc/session/notes.cpp",
        ((" || held >= limits::notes_per_session", ""),),
        cpp="notes_have_room",
    ),
)
