"""docs/providers.md says of every field of Anthropic's dialect what becomes of it elsewhere."""

import json
import re

import pytest
from anthropic.types import message_create_params as anthropic

from proxy.dialect.messages_request import FIELDS, to_chat
from proxy.errors import BadRequest
from proxy.routing import route
from proxy.tests.test_docs_anthropic import DOCS, ROW
from proxy.wire import Call

SECTION = re.compile(r"^## Anthropic's dialect$(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
# They are of Anthropic's accounts, and as unknown as any other name.
ACCOUNTS = ("user_profile_id", "workspace_id")


def chat(model: str = "gpt-4o", **fields: object) -> dict:
    asked = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **fields}
    return json.loads(to_chat(json.dumps(asked).encode(), Call(model, max_output=9), route(model)))


def test_it_documents_every_field():
    (section,) = SECTION.findall(DOCS.read_text())
    assert {name: fate.replace("400", "refused") for name, fate in ROW.findall(section)} == FIELDS


def test_it_knows_every_field_of_anthropics():
    assert anthropic.MessageCreateParamsBase.__annotations__.keys() <= FIELDS.keys() | set(ACCOUNTS)


@pytest.mark.parametrize("name", [*(name for name, fate in FIELDS.items() if fate == "refused"), *ACCOUNTS])
@pytest.mark.parametrize("model", ["gpt-4o", "gemini-2.5-flash", "qwen-max"])
def test_it_refuses_what_the_docs_say(name, model):
    with pytest.raises(BadRequest) as refused:
        chat(model, **{name: ["any"]})
    assert refused.value.param == name
    assert chat(model, **{name: None}) == chat(model)


@pytest.mark.parametrize("name", [name for name, fate in FIELDS.items() if fate == "hint"])
def test_it_does_not_heed_a_hint(name):
    assert chat(**{name: {"any": "thing"}}) == chat()
