import re
from pathlib import Path

import pytest
from django.conf import settings

from aiproxy import pages, urls

PAGE = (Path(settings.BASE_DIR) / "docs" / "API.md").read_text()
SECTIONS = dict(re.findall(r"^### `([A-Z]+ \S+)`\n(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE))
OPERATORS = {"/health", "/livez", "/readyz", "/metrics"}


def calls():
    for route in urls.API:
        for resolved in pages.walk([route]):
            view = resolved.pattern.callback.view_class
            for method in ("get", "post", "put", "patch", "delete"):
                if hasattr(view, method) and method in view.http_method_names:
                    yield f"{method.upper()} {re.sub(r'<.*?>', '{id}', resolved.path)}"


@pytest.mark.parametrize("call", sorted(calls()))
def test_it_documents_every_endpoint_in_three_languages(call):
    for language in ("sh", "python", "js"):
        assert f"```{language}\n" in SECTIONS[call]


def test_it_documents_the_data_plane():
    assert {call for call in SECTIONS if "/v1" in call} == {
        "POST /v1/chat/completions",
        "POST /v1/messages",
        "POST /v1/messages/count_tokens",
        "POST /v1/responses",
        "POST /v1/embeddings",
        "POST /v1/images/generations",
        "POST /v1/images/edits",
        "POST /v1/audio/speech",
        "POST /v1/audio/transcriptions",
        "POST /v1/audio/translations",
        "POST /v1/moderations",
        "GET /v1/models",
        "GET /v1/models/{id}",
    }


def test_it_documents_no_endpoint_that_is_gone():
    assert {call for call in SECTIONS if "/v1" not in call} == set(calls())


def test_it_documents_what_operators_ask():
    assert all(f"`GET {path}`" in PAGE for path in OPERATORS)


def test_its_python_is_python():
    for example in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        compile(example, "docs/API.md", "exec")


def test_its_json_has_the_fields_that_are_answered():
    from accounts.serializers import PlanSerializer, ProxyKeySerializer, UserSerializer
    from proxy.api import ModelAliasSerializer
    from usage.api import RequestRow
    from vault.api import ApiKeySerializer

    for serializer, call in [
        (UserSerializer, "POST /auth/signup"),
        (UserSerializer, "POST /auth/login"),
        (PlanSerializer, "POST /auth/signup"),
        (UserSerializer, "GET /auth/me"),
        (ApiKeySerializer, "GET /api-keys/{id}"),
        (ProxyKeySerializer, "POST /proxy-api-keys/generate"),
        (ModelAliasSerializer, "GET /model-aliases/{id}"),
        (RequestRow, "GET /usage/requests/{id}"),
    ]:
        answer = SECTIONS[call].split("```json")[1]
        shown = {name for name, field in serializer().fields.items() if not field.write_only}
        assert shown <= set(re.findall(r'"(\w+)":', answer))


def test_it_documents_every_reason_to_be_unavailable():
    source = "".join(path.read_text() for path in (Path(settings.BASE_DIR) / "proxy").glob("*.py"))
    assert set(re.findall(r'Unavailable\([^()]*code="(\w+)"', source)) <= set(re.findall(r"`(\w+)`", PAGE))


def test_it_documents_what_the_connection_refuses():
    source = "".join(path.read_text() for path in (Path(settings.BASE_DIR) / "proxy").glob("*.py"))
    assert set(re.findall(r'\bRefused\(\d+, "(\w+)"', source)) <= set(re.findall(r"`(\w+)`", PAGE))


def test_it_documents_every_code_of_an_error():
    source = (Path(settings.BASE_DIR) / "proxy" / "errors.py").read_text()
    assert set(re.findall(r'^    code = "(\w+)"', source, re.MULTILINE)) <= set(re.findall(r"`(\w+)`", PAGE))
