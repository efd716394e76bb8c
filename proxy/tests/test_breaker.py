"""When a key of a failing provider is left alone, and when it is tried again; by a clock of the test's own."""

import pytest

from proxy import breaker
from proxy.breaker import Breaker


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def circuits(clock):
    return Breaker(3, window=30, rest=10, clock=clock)


def word(entered):
    return entered if isinstance(entered, str) else "half_open"


def use(circuits, *, alive, key="k"):
    entered = circuits.enter(key)
    return word(entered), circuits.leave(key, entered, alive=alive)


def open_it(circuits, key="k"):
    return [use(circuits, alive=False, key=key)[1] for _ in range(3)]


def test_it_opens_at_the_last_of_so_many_failures_in_a_row(circuits):
    assert open_it(circuits) == [None, None, "opened"]
    assert circuits.enter("k") == "open"


def test_it_counts_failures_in_a_row_only(circuits):
    for alive in (False, False, True, False, False):
        use(circuits, alive=alive)
    assert circuits.enter("k") == "closed"


def test_it_does_not_count_what_nobody_can_tell(circuits):
    for alive in (False, None, False, None, False):
        use(circuits, alive=alive)
    assert circuits.enter("k") == "open"


def test_it_forgets_failures_that_are_older_than_the_window(circuits, clock):
    for pause in (0, 20, 11, 1):
        clock.now += pause
        assert use(circuits, alive=False)[0] == "closed"
    assert circuits.enter("k") == "open"  # the last three were within 12 seconds


def test_it_keeps_keys_apart(circuits):
    open_it(circuits)
    assert (circuits.enter("k"), circuits.enter("other")) == ("open", "closed")


def test_it_says_how_long_the_rest_still_is(circuits, clock):
    open_it(circuits)
    clock.now += 4
    assert (circuits.wait("k"), circuits.wait("other")) == (6, 0)


def test_it_lets_one_request_find_out_after_the_rest(circuits, clock):
    open_it(circuits)
    clock.now += 9.99
    assert circuits.enter("k") == "open"
    clock.now += 0.01
    assert [word(circuits.enter("k")) for _ in range(3)] == ["half_open", "open", "open"]


def test_it_closes_when_the_probe_is_answered(circuits, clock):
    open_it(circuits)
    clock.now += 10
    assert use(circuits, alive=True) == ("half_open", "closed")
    assert [use(circuits, alive=False) for _ in range(3)] == [("closed", None)] * 2 + [("closed", "opened")]


def test_it_rests_again_when_the_probe_fails(circuits, clock):
    open_it(circuits)
    clock.now += 10
    assert use(circuits, alive=False) == ("half_open", None)
    assert (circuits.enter("k"), circuits.wait("k")) == ("open", 10)
    clock.now += 10
    assert word(circuits.enter("k")) == "half_open"


def test_it_lets_another_find_out_when_the_probe_came_to_nothing(circuits, clock):
    open_it(circuits)
    clock.now += 10
    assert use(circuits, alive=None) == ("half_open", None)
    assert word(circuits.enter("k")) == "half_open"


def test_it_takes_no_late_failure_for_the_probes(circuits, clock):
    entered = circuits.enter("k")
    open_it(circuits)
    clock.now += 10
    probe = circuits.enter("k")
    circuits.leave("k", entered, alive=False)
    assert circuits.enter("k") == "open"
    assert circuits.leave("k", probe, alive=True) == "closed"


def test_it_believes_a_late_success(circuits):
    entered = circuits.enter("k")
    open_it(circuits)
    assert circuits.leave("k", entered, alive=True) == "closed"
    assert circuits.enter("k") == "closed"


def test_it_counts_the_probes_failure_like_any_other_after_a_late_success(circuits, clock):
    entered = circuits.enter("k")
    open_it(circuits)
    clock.now += 10
    probe = circuits.enter("k")
    assert circuits.leave("k", entered, alive=True) == "closed"
    assert circuits.leave("k", probe, alive=False) is None
    assert [use(circuits, alive=False) for _ in range(2)] == [("closed", None), ("closed", "opened")]


@pytest.mark.parametrize("alive", [False, None])
def test_it_takes_no_probe_of_an_earlier_time_for_the_one_of_now(circuits, clock, alive):
    late = circuits.enter("k")
    open_it(circuits)
    clock.now += 10
    old = circuits.enter("k")
    circuits.leave("k", late, alive=True)
    open_it(circuits)
    clock.now += 10
    probe = circuits.enter("k")
    circuits.leave("k", old, alive=alive)
    clock.now += 10
    assert word(circuits.enter("k")) == "open"
    assert circuits.leave("k", probe, alive=False) is None
    assert (word(circuits.enter("k")), circuits.wait("k")) == ("open", 10)


def test_it_never_opens_when_told_so(clock):
    circuits = Breaker(0, window=30, rest=10, clock=clock)
    assert {use(circuits, alive=False) for _ in range(100)} == {("closed", None)}


def test_it_remembers_only_so_many_keys(circuits, monkeypatch):
    monkeypatch.setattr(breaker, "MOST_CIRCUITS", 2)
    for key in "abc":
        open_it(circuits, key)
    assert [circuits.enter(key) for key in "abc"] == ["closed", "open", "open"]
