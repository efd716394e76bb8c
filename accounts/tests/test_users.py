import argon2
import pytest
from django.contrib.auth import authenticate
from django.core.management import call_command
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError

from accounts.models import Plan, User


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("  Ann@Example.COM ", "ann@example.com"),
        ("ann@BÜCHER.example", "ann@xn--bcher-kva.example"),
        ("no at sign", "no at sign"),
        (None, ""),
    ],
)
def test_it_keeps_one_spelling_of_an_address(written, kept):
    assert User.objects.normalize_email(written) == kept


def test_the_database_refuses_an_address_in_upper_case(db):
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.create(email="Ann@example.com")


def test_the_database_refuses_a_second_user_of_one_address(owner):
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.create(email=owner.email)


def test_it_finds_a_user_however_the_address_is_written(owner):
    assert User.objects.get_by_natural_key("OWNER@Example.com") == owner


def test_it_makes_a_superuser_from_the_command_line(db):
    call_command("createsuperuser", email="Root@example.com", interactive=False, verbosity=0)
    assert User.objects.get(email="root@example.com").is_superuser


def test_it_revokes_keys_and_ends_sign_ins_however_the_password_is_changed(owner, make_key):
    key = make_key(owner)
    owner.set_password("another fine battery")
    owner.save()
    key.refresh_from_db()
    assert key.status == "revoked"


def test_it_does_not_enable_who_was_disabled_while_their_new_password_was_hashed(owner):
    as_it_was = User.objects.get(pk=owner.pk)
    as_it_was.set_password("another fine battery")
    owner.disable()
    as_it_was.save()
    owner.refresh_from_db()
    assert owner.check_password("another fine battery")
    assert not owner.is_active


def test_it_takes_a_hash_renewed_at_login_for_the_same_password(owner, make_key, password):
    key = make_key(owner)
    weaker = "argon2" + argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(password)
    User.objects.filter(pk=owner.pk).update(password=weaker)
    owner.refresh_from_db()
    assert owner.check_password(password)
    key.refresh_from_db()
    assert User.objects.get(pk=owner.pk).password != weaker
    assert key.status == "live"


def test_it_does_not_let_a_disabled_user_in(owner, rf, password):
    owner.disable()
    assert authenticate(rf.post("/"), email=owner.email, password=password) is None


def test_it_keeps_a_plan_that_somebody_is_on(owner):
    with pytest.raises(ProtectedError):
        Plan.objects.get(code="free").delete()
