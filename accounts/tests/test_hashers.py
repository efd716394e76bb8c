import os
import subprocess
import sys
import threading

import argon2
import pytest
from django.contrib.auth.hashers import check_password, make_password

from accounts import hashers
from accounts.hashers import HashingBusy, Turns, check_key, hash_key

SALT = "c2FsdHNhbHRzYWx0"


def test_it_hashes_passwords_with_owasps_parameters():
    assert make_password("a password").startswith("argon2$argon2id$v=19$m=19456,t=2,p=1$")


def test_it_knows_a_password_and_a_key_again():
    assert check_password("a password", make_password("a password"))
    hashed = hash_key("a key")
    assert check_key("a key", hashed)
    assert not check_key("another", hashed)


@pytest.mark.parametrize("parameters", ["m=4194304,t=2,p=1", "m=19456,t=1000000,p=1"])
def test_it_never_runs_a_stored_hash_that_asks_for_more_than_ours(parameters):
    """4 GiB or a million rounds would not come back within the test's time."""
    stored = f"$argon2id$v=19${parameters}${SALT}$" + "A" * 43
    assert not check_password("a password", "argon2" + stored)
    assert not check_key("a key", stored)


@pytest.mark.parametrize(
    "parameters",
    [
        {"memory_cost": 20 * 1024, "time_cost": 1},
        {"memory_cost": 64, "time_cost": 3},
        {"memory_cost": 64, "parallelism": 2},
        {"memory_cost": 64, "hash_len": 65},
        {"memory_cost": 64, "type": argon2.Type.I},
    ],
)
def test_it_refuses_a_right_hash_that_is_beyond_ours(parameters):
    hasher = argon2.PasswordHasher(**{"time_cost": 2, "parallelism": 1} | parameters)
    stored = hasher.hash("a password")
    assert hasher.verify(stored, "a password")
    assert not check_password("a password", "argon2" + stored)
    assert not check_key("a password", stored)


@pytest.mark.parametrize(
    "stored", ["", "argon2$", "argon2$argon2id$v=19$m=x$y$z", "argon2$argon2i$v=19$m=8,t=1,p=1$a$b"]
)
def test_it_takes_a_damaged_hash_for_a_wrong_password(stored):
    assert not check_password("a password", stored)


def test_it_replaces_a_weaker_hash_at_the_next_login():
    weaker = "argon2" + argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("a password")
    renewed = []
    assert check_password("a password", weaker, setter=renewed.append)
    assert renewed == ["a password"]


def test_it_lets_no_more_run_at_once_than_there_are_slots():
    turns = Turns(2, 0, patience=1)
    with turns.turn(), turns.turn(), pytest.raises(HashingBusy), turns.turn():
        pass
    with turns.turn():
        pass  # all given back


def test_it_serves_who_waits_in_the_queue():
    turns, entered = Turns(1, 1, patience=30), threading.Event()

    def wait():
        with turns.turn():
            entered.set()

    waiter = threading.Thread(target=wait)
    with turns.turn():
        waiter.start()
        assert not entered.is_set()
    assert entered.wait(30)
    waiter.join()


def test_it_gives_up_on_a_wait_that_lasts_too_long():
    turns = Turns(1, 1, patience=0.01)
    with turns.turn(), pytest.raises(HashingBusy), turns.turn():
        pass
    with turns.turn():
        pass


def test_it_never_uses_more_threads_than_cores():
    assert hashers.turns._slots._initial_value == hashers._cores


@pytest.mark.skipif(sys.platform != "linux", reason="niceness is a thread's own on Linux alone")
def test_it_hashes_at_a_lower_priority_than_requests_are_served():
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    assert hashers._in_turn(niceness) > niceness()


def test_it_hashes_in_a_process_that_was_forked_from_one_that_has_hashed():
    program = (
        "import os; from accounts.hashers import check_key, hash_key; hashed = hash_key('a key'); "
        "os.fork(); os.write(1, b'%d' % check_key('a key', hashed))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.stdout == b"11"


def test_it_makes_passwords_and_keys_wait_in_the_same_queue(monkeypatch):
    full = Turns(1, 0, patience=1)
    monkeypatch.setattr(hashers, "turns", full)
    with full.turn():
        for work in (lambda: make_password("x"), lambda: check_key("x", ""), lambda: hash_key("x")):
            with pytest.raises(HashingBusy):
                work()
