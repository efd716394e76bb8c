"""The API's description: complete, true to the code, and shown without anybody else's help."""

import json
import re
import tomllib
from pathlib import Path

import msgspec
import pytest
import yaml
from django.core.management import call_command
from drf_spectacular.validation import validate_schema

from aiproxy import pages, urls
from proxy import requests, views
from proxy.dialect import chat, messages
from proxy.errors import MethodNotAllowed, RateLimited

RESPONSE = "/v1/responses/resp_0123"


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    file = tmp_path_factory.mktemp("openapi") / "openapi.yaml"
    call_command("spectacular", fail_on_warn=True, validate=True, file=str(file))
    return yaml.safe_load(file.read_text())


def operations(schema, prefix="/"):
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            if path.startswith(prefix):
                yield path, method.upper(), operation


def control_plane(schema):
    return [item for item in operations(schema) if not item[0].startswith("/v1/")]


def test_it_is_openapi_3_1(schema):
    assert schema["openapi"] == "3.1.1"
    assert schema["info"]["version"] == tomllib.loads(Path("pyproject.toml").read_text())["project"]["version"]


def test_it_has_every_call_of_the_control_plane(schema):
    expected = {("GET", "/api")}
    for route in pages.walk(urls.API):
        view = route.pattern.callback.view_class
        for method in ("get", "post", "put", "patch", "delete"):
            if hasattr(view, method) and method in view.http_method_names:
                expected.add((method.upper(), re.sub(r"<.*?>", "{id}", route.path)))
    assert {(method, path) for path, method, _ in control_plane(schema)} == expected


def test_it_names_and_sums_up_every_call_once(schema):
    names = [operation["operationId"] for _, _, operation in operations(schema)]
    assert len(set(names)) == len(names)
    assert all(operation["summary"] for _, _, operation in operations(schema))


def test_it_has_every_endpoint_of_the_data_plane(schema):
    described = {(path, method) for path, method, _ in operations(schema, "/v1/")}
    fixed = {(path, endpoint.method) for path, endpoint in views._ENDPOINTS.items()}
    stored = {
        (f"/v1/responses/{{id}}{suffix or ''}", method)
        for suffix, methods in views._METHODS.items()
        for method in methods
    }
    assert described == fixed | stored | {("/v1/models/{id}", "GET")}


def test_it_makes_up_no_endpoint_of_the_data_plane(schema):
    for path, method, _ in operations(schema, "/v1/"):
        url = path.replace("/v1/responses/{id}", RESPONSE).replace("{id}", "gpt-4o")
        assert views.resolve(url, method).method == method
        with pytest.raises(MethodNotAllowed):
            views.resolve(url, "PUT")


def test_its_examples_for_the_data_plane_are_taken(schema):
    bodies = 0
    for path, method, operation in operations(schema, "/v1/"):
        json_body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        examples = [named["value"] for named in json_body.get("examples", {}).values()]
        for example in [*examples, *([json_body["example"]] if "example" in json_body else [])]:
            views.resolve(path, method).decode(json.dumps(example).encode())
            bodies += 1
    assert bodies >= 9


@pytest.mark.parametrize(
    ("name", "struct"),
    [
        ("ChatCompletionRequest", requests._Chat),
        ("MessageRequest", requests._Messages),
        ("TokenCountRequest", requests._Count),
        ("ResponseRequest", requests._Responses),
        ("EmbeddingRequest", requests._Embeddings),
        ("ImageRequest", requests._Images),
        ("SpeechRequest", requests._Speech),
        ("ModerationRequest", requests._Moderation),
    ],
)
def test_it_describes_every_field_that_the_data_plane_reads(schema, name, struct):
    described = schema["components"]["schemas"][name]
    fields = msgspec.structs.fields(struct)
    assert {field.name for field in fields} <= set(described["properties"])
    assert {field.name for field in fields if field.required} == set(described.get("required", []))


@pytest.mark.parametrize(("name", "dialect"), [("Error", chat.DIALECT), ("AnthropicError", messages.DIALECT)])
def test_it_describes_the_errors_of_the_data_plane(schema, name, dialect):
    told = json.loads(dialect.render(RateLimited("Too fast."), "id"))
    described = schema["components"]["schemas"][name]
    assert set(told) == set(described["required"])
    assert set(told["error"]) == set(described["properties"]["error"]["required"])


def test_it_says_who_may_call(schema):
    assert set(schema["components"]["securitySchemes"]) == {
        "accessToken",
        "cookieAuth",
        "proxyKey",
        "xApiKey",
        "apiKey",
    }
    secured = {path: operation.get("security", []) for path, _, operation in operations(schema)}
    assert {"accessToken": []} in secured["/auth/me"]
    assert {"proxyKey": []} in secured["/v1/responses"]
    assert not any(secured["/auth/signup"])


def test_it_shows_no_secret_in_an_answer(schema):
    answered = schema["components"]["schemas"]["ApiKey"]["properties"]
    assert "key" in schema["components"]["schemas"]["ApiKeyRequest"]["properties"]
    assert "key" not in answered


@pytest.mark.parametrize(("form", "content_type"), [("json", "application/json"), ("yaml", "application/yaml")])
def test_it_is_served_to_anybody(client, schema, form, content_type):
    response = client.get(f"/openapi.{form}")
    assert (response.status_code, response.headers["Content-Type"]) == (200, content_type)
    served = yaml.safe_load(response.content)
    validate_schema(served)
    assert served["paths"].keys() == schema["paths"].keys()


@pytest.mark.parametrize("path", ["/docs", "/docs/redoc"])
def test_its_pages_ask_nobody_else_and_run_no_script_of_their_own(client, path):
    response = client.get(path)
    page = response.content.decode()
    assert "unsafe" not in response.headers["Content-Security-Policy"]
    assert re.findall(r"<script(?![^>]* src=)|<style| style=| on\w+=|javascript:", page) == []
    links = re.findall(r'(?:src|href|data-url|spec-url)="([^"]+)"', page)
    assert links
    for link in links:
        assert link.startswith("/")
        assert not link.startswith("//")
        assert client.get(link).status_code == 200
