"""Owns JSON schemas as Anthropic's structured output takes them; knows nothing of requests.

Every object is closed, `oneOf` becomes `anyOf`, and what the grammar cannot hold moves into the description, where the
model reads it. Facts: https://docs.anthropic.com/en/docs/build-with-claude/structured-outputs.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from proxy.errors import BadRequest

Schema = dict[str, Any]

_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"})
_KEPT = frozenset({"type", "title", "description", "enum", "const", "default", "required"})
_BRANCHES = {"anyOf": "anyOf", "oneOf": "anyOf", "allOf": "allOf"}
_NAMED = frozenset({"properties", "$defs", "definitions"})
# Say nothing of the value.
_SILENT = frozenset({"$schema", "$id", "$comment", "examples", "additionalProperties", "strict"})


def sanitised(schema: Mapping[str, Any], param: str) -> Schema:
    """For output_config.format and strict tools. BadRequest when it is no schema, or nested without an end."""
    try:
        return _node(_rooted(schema), param)
    except RecursionError as error:
        raise BadRequest(f"{param} is nested too deeply.", param=param) from error


def tool_input(schema: Mapping[str, Any] | None) -> Schema:
    """For other tools: as it is, but for the root, which must say that it is an object."""
    found = _rooted(schema or {})
    if found.get("type") != "object":
        found["type"] = "object"
    if found == {"type": "object"}:
        found["properties"] = {}
    return found


def _rooted(schema: Mapping[str, Any]) -> Schema:
    """A root that only refers to a definition becomes that definition."""
    found = dict(schema)
    for _ in range(8):
        reference = found.get("$ref")
        target = _definition(found, reference) if isinstance(reference, str) else None
        if target is None:
            break
        del found["$ref"]
        found = {**target, **found}
    return found


def _definition(root: Schema, reference: str) -> Schema | None:
    steps = reference.split("/")
    if len(steps) != 3 or steps[0] != "#" or steps[1] not in {"$defs", "definitions"}:
        return None
    definitions = root.get(steps[1])
    target = definitions.get(steps[2]) if isinstance(definitions, dict) else None
    return target if isinstance(target, dict) else None


def _node(schema: Any, param: str) -> Schema:
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise BadRequest(f"{param} holds something that is no JSON schema.", param=param)
    if "$ref" in schema:  # takes no neighbours but the definitions, at the root
        return {"$ref": schema["$ref"], **{name: _named(schema[name], param) for name in _NAMED & schema.keys()}}
    made: Schema = {}
    moved: Schema = {}
    for name, value in schema.items():
        if _is_kept(name, value):
            made[name] = value
        elif name in _NAMED:
            made[name] = _named(value, param)
        elif name in _BRANCHES and isinstance(value, list):
            made[_BRANCHES[name]] = [_node(branch, param) for branch in value]
        elif name == "items":
            made[name] = _node(value, param)
        elif name not in _SILENT:
            moved[name] = value
    if _is_object(schema):
        _close(schema, made, param)
    if moved:
        made["description"] = _described(schema.get("description"), moved)
    return made


def _is_kept(name: str, value: Any) -> bool:
    if name == "format":
        return isinstance(value, str) and value in _FORMATS
    return name in _KEPT or (name == "minItems" and value in (0, 1))


def _close(schema: Schema, made: Schema, param: str) -> None:
    if schema.get("additionalProperties", False) is not False:
        raise BadRequest(
            f"{param}: Anthropic's schemas hold no objects with properties of any name (additionalProperties).",
            param=param,
        )
    made["additionalProperties"] = False


def _is_object(schema: Schema) -> bool:
    kind = schema.get("type")
    return kind == "object" or "properties" in schema or (isinstance(kind, list) and "object" in kind)


def _named(schemas: Any, param: str) -> Schema:
    if not isinstance(schemas, dict):
        raise BadRequest(f"{param} holds something that is no JSON schema.", param=param)
    return {name: _node(schema, param) for name, schema in schemas.items()}


def _described(description: Any, moved: Schema) -> str:
    rules = ", ".join(f"{name}: {msgspec.json.encode(value).decode()}" for name, value in moved.items())
    return f"{description}\n\n{{{rules}}}" if isinstance(description, str) and description else f"{{{rules}}}"
