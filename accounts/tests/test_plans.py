from importlib import import_module

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from accounts.models import Plan, User

plans = import_module("accounts.migrations.0002_plans")


@pytest.fixture
def apps(db):
    return MigrationExecutor(connection).loader.project_state([("accounts", "0002_plans")]).apps


def test_it_starts_with_three_plans_each_larger_than_the_one_before(db):
    free, pro, enterprise = (Plan.objects.get(code=code) for code in ("free", "pro", "enterprise"))
    for name in ("rpm", "tpm", "max_parallel", "max_api_keys", "max_proxy_keys"):
        assert 0 < getattr(free, name) < getattr(pro, name) < getattr(enterprise, name)


def test_it_puts_a_new_user_on_the_free_plan(owner):
    assert User.objects.get(pk=owner.pk).plan.code == "free"


def test_it_keeps_what_staff_edited_when_applied_again(apps):
    Plan.objects.filter(code="pro").update(rpm=7)
    plans.make_plans(apps, connection.schema_editor())
    assert Plan.objects.get(code="pro").rpm == 7


def test_it_can_be_reversed_and_keeps_a_plan_somebody_is_on(apps, owner):
    plans.remove_unused_plans(apps, connection.schema_editor())
    assert [plan.code for plan in Plan.objects.all()] == ["free"]


def test_it_names_the_limits_of_a_key_that_are_above_the_plans():
    plan = Plan(rpm=10, tpm=None, max_parallel=2)
    assert plan.exceeded_by({"rpm": 10, "tpm": 10**9, "max_parallel": None}) == {}
    assert set(plan.exceeded_by({"rpm": 11, "max_parallel": 3})) == {"rpm", "max_parallel"}
