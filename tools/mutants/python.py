# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Faults of the plugin: the handshake, tickets, the router."""

from __future__ import annotations

from .mutant import Mutant

HANDSHAKE = "vllm_plugin/kvdirect/handshake"
ROUTER = "vllm_plugin/kvdirect/router"

MUTANTS = (
    Mutant(
        "a handshake message may be as long as it says",
        f"{HANDSHAKE}/frames.py",
        (("        if length > self._limit:\n", "        if length < 0:\n"),),
        pytest=("tests/plugin/test_messages.py", "-k", "oversize"),
    ),
    Mutant(
        "connections to the handshake port have no bound",
        f"{HANDSHAKE}/crowd.py",
        (("if len(self) >= self._most else None", "if len(self) < 0 else None"),),
        pytest=("tests/plugin/test_handshake_bounds.py", "-k", "makes_room or excess"),
    ),
    Mutant(
        "a stranger at the handshake port may take its time",
        f"{HANDSHAKE}/crowd.py",
        (("if connection.deadline <= now]", "if connection.deadline < 0]"),),
        pytest=("tests/plugin/test_handshake_bounds.py", "-k", "says_nothing_or_little"),
    ),
    Mutant(
        "one party's connections count as those of many",
        f"{HANDSHAKE}/crowd.py",
        (("max(self._parties.values(), key=len, default={})", "next(iter(self._parties.values()), {})"),),
        pytest=("tests/plugin/test_handshake_bounds.py", "-k", "excess"),
    ),
    Mutant(
        "another cache's reader is welcomed",
        f"{HANDSHAKE}/decision.py",
        (("        if difference is not None:\n", "        if difference == ():\n"),),
        pytest=("tests/plugin/test_handshake.py", "-k", "mismatch_names"),
    ),
    Mutant(
        "the reader does not compare fingerprints",
        f"{HANDSHAKE}/client.py",
        (("    if difference is not None:\n", "    if difference == ():\n"),),
        pytest=("tests/plugin/test_handshake.py", "-k", "reader_compares_too"),
    ),
    Mutant(
        "whoever is listed vouches for others",
        "vllm_plugin/kvdirect/keys/tls.py",
        (("        if certificate not in self.listed:\n", "        if not self.listed:\n"),),
        pytest=("tests/plugin/test_keys.py", "-k", "vouches"),
    ),
    Mutant(
        "no key is asked for",
        "vllm_plugin/kvdirect/keys/tls.py",
        (("    context.verify_mode = ssl.CERT_REQUIRED\n", "    context.verify_mode = ssl.CERT_NONE\n"),),
        pytest=("tests/plugin/test_keys.py", "-k", "gets_nothing or told_nothing"),
    ),
    Mutant(
        "another user's process is welcomed",
        f"{HANDSHAKE}/neighbour.py",
        (
            ("        return int(user) if inode else None", "        return os.geteuid()"),
            ("import socket\n", "import os\nimport socket\n"),
        ),
        pytest=("tests/plugin/test_keys.py", "-k", "another_user"),
    ),
    Mutant(
        "an engine without keys starts on a network",
        "vllm_plugin/kvdirect/config.py",
        (("            if not is_local(value):\n", "            if not value:\n"),),
        pytest=("tests/plugin/test_keys.py", "-k", "beyond_this_machine"),
    ),
    Mutant(
        "any host is dialled",
        "vllm_plugin/kvdirect/hosts.py",
        ((" or any(address in network for network in self._networks)", " or bool(self._networks)"),),
        pytest=("tests/plugin/test_hosts.py", "-k", "host_policy"),
    ),
    Mutant(
        "a ticket is used for whatever prompt comes with it",
        "vllm_plugin/kvdirect/scheduler/reader.py",
        (
            (
                " and request_digest(request, covered, epoch) == remote.prompt",
                " and bool(request_digest(request, covered, epoch))",
            ),
        ),
        pytest=("tests/plugin/test_prompt.py", "-k", "its_own_prompt"),
    ),
    Mutant(
        "caches of old weights stay readable after a pause that clears vLLM's own",
        "vllm_plugin/kvdirect/scheduler/owner.py",
        (("            self._end_kept(kept.lease)\n", "            pass\n"),),
        pytest=("tests/plugin/test_given_back.py", "-k", "readable_no_more"),
    ),
    Mutant(
        "whoever sends a ticket to its owner ends the lease",
        "vllm_plugin/kvdirect/scheduler/owner.py",
        (('if not getattr(request, "abort_immediately", False) or not (', "if not ("),),
        pytest=("tests/plugin/test_given_back.py", "-k", "only_a_refused_request"),
    ),
    Mutant(
        "a claim that is none gives back what was asked for without one",
        "vllm_plugin/kvdirect/scheduler/owner.py",
        (("        if not claim:\n            return False\n", ""),),
        pytest=("tests/plugin/test_given_back.py", "-k", "forged"),
    ),
    Mutant(
        "a ticket that was redeemed is given back",
        f"{ROUTER}/decode.py",
        (("                prefill.redeemed()", "                prefill.close()"),),
        pytest=("tests/router/test_returns.py", "-k", "left_alone"),
    ),
    Mutant(
        "a lease of another version is read",
        "vllm_plugin/kvdirect/transfer_params.py",
        (("        if version != LEASE_VERSION:\n", "        if version < 0:\n"),),
        pytest=("tests/plugin/test_messages.py", "-k", "bad_leases"),
    ),
    Mutant(
        "trailers become headers",
        f"{ROUTER}/bounded_http.py",
        (
            (
                "        if self._stage is _Stage.HEAD:\n            super().on_header(name, value)",
                "        super().on_header(name, value)",
            ),
        ),
        pytest=("tests/router/test_hostile_clients.py", "-k", "trailers"),
    ),
    Mutant(
        "a request's head has no end",
        f"{ROUTER}/bounded_http.py",
        (("        if size > MAX_HEAD or self._head.count", "        if size < 0 and self._head.count"),),
        pytest=("tests/router/test_hostile_clients.py", "-k", "no_end_is_cut_off"),
    ),
    Mutant(
        "requests ahead are kept without end",
        f"{ROUTER}/bounded_http.py",
        (("            self.flow.pause_reading()\n", "            pass\n"), ("> 8 * MAX_AHEAD:", "< 0:")),
        pytest=("tests/router/test_hostile_clients.py", "-k", "without_end_before"),
    ),
    Mutant(
        "framing around a chunked body has no bound",
        f"{ROUTER}/bounded_http.py",
        (("            if self._framing > MAX_HEAD:\n", "            if self._framing < 0:\n"),),
        pytest=("tests/router/test_hostile_clients.py", "-k", "no_end_is_cut_off"),
    ),
    Mutant(
        "events end where reads do",
        f"{ROUTER}/events.py",
        (('        if not self._rest and part.endswith(b"\\n\\n"):\n', "        if not self._rest:\n"),),
        pytest=("tests/fuzz/test_corpus.py", "-k", "events"),
    ),
    Mutant(
        "an instance's event may be of any length",
        f"{ROUTER}/events.py",
        (("        if not ends and len(self._rest) > self._limit:\n", "        if not ends and not self._rest:\n"),),
        pytest=("tests/router/test_hostile_instances.py", "-k", "answer_without_end"),
    ),
    Mutant(
        "an abort is an answer",
        f"{ROUTER}/events.py",
        (('choice.get("finish_reason") == "abort"', 'choice.get("finish_reason") == "aborted"'),),
        pytest=("tests/router/test_hostile_instances.py", "-k", "abort_is_seen"),
    ),
    Mutant(
        "a client's own transfer parameters reach an instance",
        f"{ROUTER}/bodies.py",
        (("            self._members.pop(name, None)\n", "            pass\n"),),
        pytest=("tests/fuzz/test_corpus.py", "-k", "bodies"),
    ),
    Mutant(
        "all of a client's headers reach the instances",
        f"{ROUTER}/bodies.py",
        (("if (key in _FORWARDED or key in more) and key not in listed]", "if key not in listed]"),),
        pytest=("tests/router/test_hostile_clients.py", "-k", "headers_that_they_need"),
    ),
    Mutant(
        "any admin token is right",
        f"{ROUTER}/auth.py",
        (('hmac.compare_digest(bearer(authorization), expected.encode("ascii"))', "bool(authorization or expected)"),),
        pytest=("tests/router/test_admin.py", "-k", "nothing_without_the_token"),
    ),
    Mutant(
        "guessing the admin token costs no time",
        f"{ROUTER}/admin.py",
        (("        if self._wrong[guesser] >= self._most_wrong:\n", "        if self._wrong[guesser] < 0:\n"),),
        pytest=("tests/router/test_admin.py", "-k", "guesses_are_slow"),
    ),
)
