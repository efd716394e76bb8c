"""The API's description: complete, true to the code, and shown without anybody else's help."""

import json
import re
import tomllib
from pathlib import Path

import msgspec
import pytest
from django.core.management import call_command
from jsonschema import Draft202012Validator

from aiproxy import pages, urls
from proxy import requests, views
from proxy.dialect import chat, messages
from proxy.errors import MethodNotAllowed, RateLimited

RESPONSE = "/v1/responses/resp_0123"


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    file = tmp_path_factory.mktemp("openapi") / "openapi.json"
    call_command("spectacular", fail_on_warn=True, validate=True, format="openapi-json", file=str(file))
    return json.loads(file.read_text())


def operations(schema, prefix="/"):
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            if path.startswith(prefix):
                yield path, method.upper(), operation


def pointer(*names):
    return "#/" + "/".join(name.replace("~", "~0").replace("/", "~1") for name in names)


def is_described(schema, value, *names):
    Draft202012Validator({**schema, "$ref": pointer(*names)}).validate(value)


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


def test_it_says_429_of_every_call_that_is_counted(schema):
    counted = {
        re.sub(r"<.*?>", "{id}", route.path)
        for route in pages.walk(urls.API)
        if route.pattern.callback.view_class.throttle_classes
    }
    told = {path for path, _, operation in control_plane(schema) if "429" in operation["responses"]}
    assert counted <= told


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


def test_its_examples_for_the_control_plane_fit_their_schemas(schema):
    for path, method, operation in control_plane(schema):
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        if "example" in body:
            where = ("paths", path, method.lower(), "requestBody", "content", "application/json", "schema")
            is_described(schema, body["example"], *where)


@pytest.fixture
def answer(schema, api, owner):
    """Calls, and holds the answer to what is described for its status."""

    def call(method, path, body=None, *, described="", signed_in=True):
        response = getattr(api(owner if signed_in else None), method)(path, body)
        status, at = str(response.status_code), described or path.partition("?")[0]
        said = schema["paths"][at][method]["responses"][status]
        if "$ref" in said:
            where = said["$ref"].removeprefix("#/").split("/")
        else:
            where = ["paths", at, method, "responses", status]
        is_described(schema, response.json(), *where, "content", "application/json", "schema")
        return response

    return call


def test_its_calls_answer_as_described(answer, password):
    answer("post", "/auth/signup", {"email": "new@example.com", "password": password}, signed_in=False)
    answer("post", "/auth/login", {"email": "owner@example.com", "password": password}, signed_in=False)
    answer("get", "/auth/me")
    answer("post", "/api-keys", {"provider": "openai", "key": "sk-" + "a" * 40})
    answer("post", "/proxy-api-keys/generate", {"name": "editor"})
    answer("post", "/model-aliases", {"name": "best", "models": ["gpt-4o"]})
    for path in ("/api", "/api-keys", "/proxy-api-keys", "/model-aliases", "/usage/requests", "/prices"):
        answer("get", path)
    answer("get", "/usage/summary?group_by=day")


def test_its_refusals_are_as_described(answer):
    assert answer("get", "/auth/me", signed_in=False).status_code == 401
    assert answer("post", "/api-keys", {"provider": "none", "other": 1}).status_code == 400
    assert answer("get", "/usage/requests?limit=0").status_code == 400
    assert answer("post", "/model-aliases", {"name": "x", "models": []}).status_code == 400
    nobody = "/api-keys/00000000-0000-7000-8000-000000000000"
    assert answer("get", nobody, described="/api-keys/{id}").status_code == 404


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


def test_it_is_served_to_anybody_as_json(client, schema):
    response = client.get("/openapi.json")
    assert (response.status_code, response.headers["Content-Type"]) == (200, "application/json")
    assert response.json()["paths"].keys() == schema["paths"].keys()


def test_it_is_served_to_anybody_as_yaml(client, schema):
    response = client.get("/openapi.yaml")
    assert (response.status_code, response.headers["Content-Type"]) == (200, "application/yaml")
    assert set(re.findall(r"^  (/\S*):$", response.content.decode(), re.MULTILINE)) == schema["paths"].keys()


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
