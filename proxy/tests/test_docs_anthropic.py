"""docs/providers.md says of every field what the code does with it."""

import json
import re
from pathlib import Path

import pytest
from openai.types.chat import completion_create_params as openai

from proxy.errors import BadRequest
from proxy.wire import Call
from proxy.wire import anthropic as wire
from proxy.wire.anthropic_request import FIELDS

DOCS = Path(__file__).parents[2] / "docs" / "providers.md"
ROW = re.compile(r"^\| `(\w+)` \| (translated|passed|hint|400) \|", re.MULTILINE)
SECTION = re.compile(r"^## Anthropic$(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)

# Something that every refused field would have to honour.
ASKING = {"n": 2, "modalities": ["audio"], "logit_bias": {"1": 1}, "functions": [{"name": "f"}], "store": True}


def documented() -> dict[str, str]:
    (section,) = SECTION.findall(DOCS.read_text())
    return {name: fate.replace("400", "refused") for name, fate in ROW.findall(section)}


def test_it_documents_every_field():
    assert documented() == FIELDS


def test_it_knows_every_field_of_openais():
    assert openai.CompletionCreateParamsBase.__annotations__.keys() <= FIELDS.keys()


def encode(**fields: object) -> dict:
    request = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, **fields}
    return json.loads(wire.encode(json.dumps(request).encode(), Call("claude-opus-4-6"), "claude-opus-4-6", None))


@pytest.mark.parametrize("name", [name for name, fate in FIELDS.items() if fate == "refused"])
def test_it_refuses_what_the_docs_say(name):
    with pytest.raises(BadRequest) as refused:
        encode(**{name: ASKING.get(name, {"any": 1} if name in {"audio", "moderation"} else 1)})
    assert refused.value.param == name
    assert encode(**{name: None}) == encode()


@pytest.mark.parametrize("name", [name for name, fate in FIELDS.items() if fate == "hint"])
def test_it_does_not_heed_a_hint(name):
    assert encode(**{name: "anything"}) == encode()


@pytest.mark.parametrize("name", [name for name, fate in FIELDS.items() if fate == "passed"])
def test_it_passes_what_is_anthropics(name):
    value = 5 if name == "top_k" else {"any": "thing"}
    assert encode(**{name: value})[name] == value
