"""docs/providers.md says of every field of a Responses request what the code does with it."""

import json

import pytest
from openai.types.responses import response_create_params as openai

from proxy.dialect.responses_request import FIELDS, to_chat
from proxy.errors import BadRequest
from proxy.routing import Route
from proxy.tests.test_docs_google import documented
from proxy.wire import Call


def test_it_documents_every_field():
    assert documented("Responses") == {name: fate.replace("refused", "400") for name, fate in FIELDS.items()}


def test_it_knows_every_field_of_openais():
    assert openai.ResponseCreateParamsBase.__annotations__.keys() | {"stream"} <= FIELDS.keys()


def encode(**fields: object) -> dict:
    request = {"model": "m", "input": "hi", **fields}
    return json.loads(to_chat(json.dumps(request).encode(), Call("m"), Route("anthropic", "m")))


@pytest.mark.parametrize("name", [name for name, fate in FIELDS.items() if fate == "refused"])
def test_it_refuses_what_the_docs_say(name):
    with pytest.raises(BadRequest) as refused:
        encode(**{name: "anything"})
    assert refused.value.param == name
    assert encode(**{name: None}) == encode()


@pytest.mark.parametrize("name", [name for name, fate in FIELDS.items() if fate == "hint"])
def test_it_does_not_heed_a_hint(name):
    assert encode(**{name: {"any": 1}}) == encode()


@pytest.mark.parametrize("name", [name for name, fate in FIELDS.items() if fate == "passed"])
def test_it_passes_what_chat_completions_have_as_well(name):
    assert encode(**{name: "value"})[name] == "value"
