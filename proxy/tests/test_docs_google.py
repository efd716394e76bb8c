"""docs/providers.md says of every field what the code does with it, for Google and Alibaba."""

import json
import re
from pathlib import Path

import pytest
from openai.types.chat import completion_create_params as openai

from proxy.errors import BadRequest
from proxy.wire import Call, alibaba, google
from proxy.wire.alibaba_request import REFUSED_HERE
from proxy.wire.alibaba_request import TRANSLATED as ALIBABA
from proxy.wire.fields import HINTS, REFUSED
from proxy.wire.google_request import PASSED, TRANSLATED

DOCS = Path(__file__).parents[2] / "docs" / "providers.md"
ROW = re.compile(r"^\| `(\w+)` \| (translated|passed|hint|400) \|", re.MULTILINE)

GOOGLE_FIELDS = {
    **dict.fromkeys((*PASSED, *TRANSLATED), "translated"),
    **dict.fromkeys(HINTS, "hint"),
    **dict.fromkeys(REFUSED, "400"),
}
ALIBABA_FIELDS = {**dict.fromkeys(ALIBABA, "translated"), **dict.fromkeys(REFUSED_HERE, "400")}


def documented(provider: str) -> dict[str, str]:
    (section,) = re.findall(rf"^## {provider}$(.*?)(?=^## |\Z)", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    return dict(ROW.findall(section))


@pytest.mark.parametrize(("provider", "fields"), [("Google", GOOGLE_FIELDS), ("Alibaba", ALIBABA_FIELDS)])
def test_it_documents_every_field(provider, fields):
    assert documented(provider) == fields


def test_it_knows_every_field_of_openais():
    assert openai.CompletionCreateParamsBase.__annotations__.keys() <= GOOGLE_FIELDS.keys()


def encode(wire, **fields: object) -> dict:
    request = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return json.loads(wire.WIRE.encode(json.dumps(request).encode(), Call("m"), "m", None))


@pytest.mark.parametrize("wire", [google, alibaba])
@pytest.mark.parametrize("name", sorted(REFUSED_HERE))
def test_it_refuses_what_the_docs_say(wire, name):
    if documented(wire.__name__.rpartition(".")[2].title()).get(name) != "400":
        assert encode(wire, **{name: 0.5}) != encode(wire)
        return
    with pytest.raises(BadRequest) as refused:
        encode(wire, **{name: {"any": 1}})
    assert refused.value.param == name


@pytest.mark.parametrize(("name", "theirs"), sorted(PASSED.items()))
def test_it_hands_on_what_has_the_same_meaning(name, theirs):
    assert encode(google, **{name: 2})["generationConfig"] == {theirs: 2}


@pytest.mark.parametrize("name", ["enable_search", "top_k", "temperature", "brand_new"])
def test_it_passes_alibaba_what_is_not_in_the_table(name):
    assert encode(alibaba, **{name: 1})[name] == 1
