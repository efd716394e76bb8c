"""Owns how bodies are read: they say nothing that we would silently ignore, and a form may hold a list."""

import json
from collections.abc import Mapping
from typing import Any

from django.http import QueryDict
from rest_framework import parsers, serializers
from rest_framework.exceptions import ParseError
from rest_framework.utils.html import is_html_input

_FORM_FIELDS = {"csrfmiddlewaretoken"}


class JSONParser(parsers.JSONParser):
    """Refuses half of a surrogate pair wherever it stands: it is no character, and no answer can quote it."""

    def parse(self, *args: Any, **kwargs: Any) -> Any:
        data = super().parse(*args, **kwargs)
        fields = data.items() if isinstance(data, dict) else [("non_field_errors", data)]
        if wrong := [name for name, value in fields if not _is_text([name, value])]:
            shown = (name.encode(errors="backslashreplace").decode() for name in wrong)
            raise serializers.ValidationError({name: ["It holds half of a surrogate pair."] for name in shown})
        return data


def _is_text(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


class FormParser(parsers.FormParser):
    """Refuses a form that is not in the charset it names: some do not fail as a decoder should."""

    def parse(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().parse(*args, **kwargs)
        except UnicodeError as error:
            raise ParseError("The form is not in the charset that Content-Type names.") from error


class StrictSerializerMixin(serializers.Serializer[Any]):
    """Refuses fields that are unknown or read-only, naming each. List it before the serializer class."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            unknown = _names(data) - {field.field_name for field in self._writable_fields}
            if unknown:
                raise serializers.ValidationError({name: ["Unknown or read-only field."] for name in sorted(unknown)})
        return super().to_internal_value(data)


class LinesField(serializers.ListField):
    """A list; in a form of the browsable API each line is an entry."""

    def __init__(self, **options: Any) -> None:
        super().__init__(style={"base_template": "textarea.html"}, **options)

    def get_value(self, dictionary: Any) -> Any:
        value = super().get_value(dictionary)
        if is_html_input(dictionary) and isinstance(value, list):
            return [line for entry in value for line in str(entry).splitlines() if line.strip()]
        return value


def _names(data: Mapping[Any, Any]) -> set[str]:
    if not isinstance(data, QueryDict):
        return {str(name) for name in data}
    # An HTML form writes the entries of a list as name[0], name[1]
    return {name.partition("[")[0] for name in data} - _FORM_FIELDS
