"""Owns the API's description: OpenAPI 3.1 of both planes, and the pages that show it.

The control plane's part is read from its views; the data plane's, which Django does not see, is proxy/openapi.yaml.
"""

import functools
from typing import Any

import yaml
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe
from drf_spectacular.contrib.rest_framework_simplejwt import SimpleJWTScheme
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiJsonRenderer, OpenApiYamlRenderer

from aiproxy.middleware import POLICY

Schema = dict[str, Any]

_RENDERERS = {"json": OpenApiJsonRenderer, "yaml": OpenApiYamlRenderer}
# RFC 8259, RFC 9512
_CONTENT_TYPES = {"json": "application/json", "yaml": "application/yaml"}
# Redoc adds style elements that are empty, and fills them by calls: this is the hash of nothing.
_REDOC_POLICY = f"{POLICY}; style-src 'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
_REFUSALS = {
    "400": "A field is wrong, unknown or read-only; or the body cannot be read.",
    "401": "Not signed in, or no longer.",
    "403": "A browser's session without its CSRF token.",
    "404": "It does not exist, or is somebody else's.",
    "409": "It collides with what is there, or the plan is full.",
    "413": "The body is larger than 1 MiB.",
    "429": "Too often: wait as `Retry-After` says.",
    "503": "The database, or something else that is needed, is away: wait as `Retry-After` says.",
}
_REFUSAL = {
    "type": "object",
    "properties": {"detail": {"type": "string"}},
    "additionalProperties": {"description": "What is wrong with the field of this name."},
}
_CONFLICTING = {
    "signUp",
    "storeApiKey",
    "changeApiKey",
    "createProxyKey",
    "changeProxyKey",
    "createAlias",
    "changeAlias",
    "sendVerification",
    "deleteMe",
}
# Without a body, and counted all the same.
_COUNTED = {"exportMe", "sendVerification", "testApiKey"}
# Of requests; those of the data plane stand in its file.
_EXAMPLES: dict[str, Schema] = {
    "signUp": {"email": "me@example.com", "password": "a long pass phrase"},
    "signIn": {"email": "me@example.com", "password": "a long pass phrase"},
    "storeApiKey": {"provider": "openai", "label": "main", "key": "…"},
    "createProxyKey": {"name": "editor", "allowed_models": ["gpt-4o*"], "rpm": 60},
    "createAlias": {"name": "best", "models": ["claude-opus-4-6", "gpt-4o"]},
}


class AccessToken(SimpleJWTScheme):  # type: ignore[no-untyped-call]
    target_class = "accounts.authentication.TokenAuthentication"
    name = "accessToken"


def complete(result: Schema, generator: SchemaGenerator, request: Any, public: bool) -> Schema:
    """drf-spectacular's hook: what holds for the whole control plane, and the data plane."""
    components = result["components"]
    for name, schema in components["schemas"].items():
        if name.endswith("Request"):
            schema["additionalProperties"] = False  # accounts/strict.py
        for field in schema.get("properties", {}).values():
            if "oneOf" in field:  # an empty text, or one that fits a pattern, may be both
                field["anyOf"] = field.pop("oneOf")
    components["schemas"]["Refusal"] = _REFUSAL
    components["responses"] = {f"Refused{status}": _refused(text) for status, text in _REFUSALS.items()}
    for path in result["paths"].values():
        for operation in path.values():
            if body := operation.get("requestBody"):
                # Forms are the browsable API's: all of their values are text.
                body["content"] = {"application/json": body["content"]["application/json"]}
            if example := _EXAMPLES.get(operation["operationId"]):
                operation["requestBody"]["content"]["application/json"]["example"] = example
            for status in _refusals(operation):
                operation["responses"].setdefault(status, {"$ref": f"#/components/responses/Refused{status}"})
    data_plane = yaml.safe_load((settings.BASE_DIR / "proxy" / "openapi.yaml").read_text())
    result["paths"] |= data_plane["paths"]
    for kind, named in data_plane["components"].items():
        components[kind] |= named
    return result


def _refused(text: str) -> Schema:
    return {"description": text, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}}


def _refusals(operation: Schema) -> list[str]:
    given = {parameter["in"] for parameter in operation.get("parameters", [])}
    writes = "requestBody" in operation
    happens = {
        "400": writes or "query" in given,
        "401": operation["operationId"] != "signUp",
        "403": writes,
        "404": "path" in given,
        "409": operation["operationId"] in _CONFLICTING,
        "413": writes,
        "429": writes or operation["operationId"] in _COUNTED,
        "503": True,
    }
    return [status for status, does in happens.items() if does]


@functools.cache
def _rendered(form: str) -> bytes:
    schema = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    text: bytes = _RENDERERS[form]().render(schema, renderer_context={})
    return text


@require_safe
def description(request: HttpRequest, form: str) -> HttpResponse:
    return HttpResponse(_rendered(form), content_type=_CONTENT_TYPES[form])


@require_safe
def swagger(request: HttpRequest) -> HttpResponse:
    return render(request, "docs/swagger.html")


@require_safe
def redoc(request: HttpRequest) -> HttpResponse:
    response = render(request, "docs/redoc.html")
    response.headers["Content-Security-Policy"] = _REDOC_POLICY
    return response
