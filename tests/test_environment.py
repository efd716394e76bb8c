"""What every other test relies on."""

import os
import socket

import psycopg
import pytest
import redis


def test_it_refuses_to_leave_this_machine():
    with socket.socket() as outside, pytest.raises(RuntimeError, match="stay on loopback"):
        outside.connect(("192.0.2.1", 443))


def test_it_brings_a_redis(redis_url):
    assert redis.Redis.from_url(redis_url).ping()


@pytest.mark.postgres
def test_it_brings_a_postgresql():
    with psycopg.connect(os.environ["TEST_DATABASE_URL"]) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_three_people_are_three_people(owner, teammate, stranger, password):
    assert len({owner.pk, teammate.pk, stranger.pk}) == 3
    assert owner.check_password(password)
