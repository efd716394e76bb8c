from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db.models import Sum

from accounts.models import ProxyKey, User
from usage.models import Outcome, ProxyRequest, UsageHour

pytestmark = pytest.mark.django_db


def seed(**options) -> None:
    call_command("seed_demo", **{"requests": 80, "people": 2, "days": 3, "stdout": StringIO(), **options})


def test_it_makes_traffic_that_adds_up():
    seed()
    sums = UsageHour.objects.aggregate(requests=Sum("requests"), tokens=Sum("tokens_total"), cost=Sum("cost"))
    rows = ProxyRequest.objects.aggregate(tokens=Sum("tokens_total"), cost=Sum("cost"))
    assert sums == {"requests": 80, **rows}
    assert not ProxyRequest.objects.filter(outcome=Outcome.OK, cost=None).exists()
    assert {row.user_id for row in ProxyRequest.objects.all()} <= set(User.objects.values_list("pk", flat=True))


def test_it_shows_keys_in_every_state():
    seed()
    assert {key.status for key in ProxyKey.objects.all()} == {"live", "revoked"}


def test_it_never_mixes_with_real_people(owner):
    with pytest.raises(CommandError, match="accounts here already"):
        seed()
    assert User.objects.count() == 1


@pytest.mark.parametrize("options", [{"people": 0}, {"people": 25}, {"requests": 0}, {"days": 0}])
def test_it_refuses_numbers_that_make_no_sense(options):
    with pytest.raises(CommandError, match="must be"):
        seed(**options)
