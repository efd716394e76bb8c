import copy
import json
import pickle

import pytest
from django.template import Context, Engine

from vault.secret import Secret
from vault.tests.conftest import make_key


def test_it_reveals_only_when_asked() -> None:
    key = make_key()
    assert Secret(key).reveal() == key


@pytest.mark.parametrize("show", [repr, str, "{}".format, "%s".__mod__, lambda secret: f"{secret!r:>20}"])
def test_it_shows_itself_masked(show) -> None:
    assert show(Secret("x" * 20)).strip() == "Secret(***)"


@pytest.mark.parametrize("give_away", [pickle.dumps, copy.copy, copy.deepcopy, json.dumps, vars])
def test_it_cannot_be_given_away(give_away) -> None:
    with pytest.raises(TypeError):
        give_away(Secret("x" * 20))


def test_it_stays_silent_in_a_template() -> None:
    page = Engine().from_string("{{ secret }}|{{ secret.reveal }}").render(Context({"secret": Secret("x" * 20)}))
    assert page == "Secret(***)|"


def test_equal_content_does_not_make_two_secrets_equal() -> None:
    assert Secret("x" * 20) != Secret("x" * 20)
