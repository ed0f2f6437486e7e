# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""When the rule moves an instance from one role to the other, and when it leaves all as it is."""

import math

import pytest

from kvdirect.router.roles import Role, RoleLoad, RolePolicy, RoleSettings

QUICK = RoleSettings(patience=0.0, pause=0.0)


def once(prefill: RoleLoad, decode: RoleLoad, settings: RoleSettings = QUICK) -> Role | None:
    return RolePolicy(settings).look(10.0, prefill, decode)


def test_the_role_that_is_pressed_gets_an_instance() -> None:
    assert once(RoleLoad(2, 3.0, 0.0), RoleLoad(2, 0.5, 0.0)) == "prefill"
    assert once(RoleLoad(2, 0.5, 0.0), RoleLoad(2, 3.0, 0.0)) == "decode"


def test_a_queue_presses_without_any_work_that_comes() -> None:
    assert once(RoleLoad(2, 0.0, 20.0), RoleLoad(2, 0.5, 0.0)) == "prefill"
    assert once(RoleLoad(2, 0.0, 20.0), RoleLoad(2, 0.5, 0.0), RoleSettings(patience=0, pause=0, horizon=100)) is None


def test_nothing_moves_while_there_is_enough_of_both() -> None:
    assert once(RoleLoad(4, 1.9, 0.0), RoleLoad(4, 0.1, 0.0)) is None


def test_nothing_moves_where_the_other_role_would_be_worse_off() -> None:
    assert once(RoleLoad(2, 1.8, 0.0), RoleLoad(2, 1.6, 0.0)) is None


def test_a_change_must_gain_enough() -> None:
    loads = RoleLoad(8, 8.0, 0.0), RoleLoad(8, 6.0, 0.0)
    assert once(*loads) == "prefill"
    assert once(*loads, RoleSettings(patience=0, pause=0, gain=0.2)) is None


def test_a_role_keeps_its_last_instances() -> None:
    assert once(RoleLoad(3, 9.0, 0.0), RoleLoad(1, 0.0, 0.0)) is None
    assert once(RoleLoad(1, 0.0, 0.0), RoleLoad(3, 9.0, 0.0)) is None
    assert once(RoleLoad(2, 9.0, 0.0), RoleLoad(2, 0.0, 0.0), RoleSettings(patience=0, pause=0, least=2)) is None


def test_a_role_without_instances_gets_one() -> None:
    assert once(RoleLoad(0, 0.1, 0.0), RoleLoad(3, 2.0, 0.0)) == "prefill"


def test_a_change_must_look_right_for_a_while() -> None:
    policy = RolePolicy(RoleSettings(patience=2.0, pause=0.0))
    pressed, calm = (RoleLoad(2, 3.0, 0.0), RoleLoad(2, 0.5, 0.0)), (RoleLoad(2, 0.5, 0.0), RoleLoad(2, 0.5, 0.0))
    assert policy.look(0.0, *pressed) is None
    assert policy.look(1.5, *calm) is None
    assert policy.look(1.6, *pressed) is None
    assert policy.look(3.5, *pressed) is None
    assert policy.look(3.6, *pressed) == "prefill"


def test_changes_keep_a_pause() -> None:
    policy = RolePolicy(RoleSettings(patience=0.0, pause=5.0))
    pressed = RoleLoad(2, 3.0, 0.0), RoleLoad(2, 0.5, 0.0)
    assert [policy.look(float(now), *pressed) for now in range(7)] == ["prefill", *[None] * 4, "prefill", None]


def test_a_load_that_does_not_change_comes_to_rest() -> None:
    policy = RolePolicy(QUICK)
    prefill, decode = 7, 1
    for now in range(50):
        match policy.look(float(now), RoleLoad(prefill, 2.1, 0.0), RoleLoad(decode, 4.3, 0.0)):
            case "prefill":
                prefill, decode = prefill + 1, decode - 1
            case "decode":
                prefill, decode = prefill - 1, decode + 1
            case None:
                break
    assert (prefill, decode) == (3, 5)
    assert policy.look(60.0, RoleLoad(prefill, 2.1, 0.0), RoleLoad(decode, 4.3, 0.0)) is None


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_what_cannot_be_measured_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"work .*: expected a number from 0"):
        RoleLoad(1, value, 0.0)
    with pytest.raises(ValueError, match=r"patience .*: expected a number from 0"):
        RoleSettings(patience=value)


def test_settings_that_would_never_change_anything_are_refused() -> None:
    with pytest.raises(ValueError, match="gain 1: expected less than 1"):
        RoleSettings(gain=1)
    with pytest.raises(ValueError, match="least 0: expected a number from 1"):
        RoleSettings(least=0)
