"""Owns the rule that a body says nothing we would silently ignore."""

from collections.abc import Mapping
from typing import Any

from django.http import QueryDict
from rest_framework import serializers

_FORM_FIELDS = {"csrfmiddlewaretoken"}


class StrictSerializerMixin(serializers.Serializer[Any]):
    """Refuses fields that are unknown or read-only, naming each. List it before the serializer class."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            unknown = _names(data) - {field.field_name for field in self._writable_fields}
            if unknown:
                raise serializers.ValidationError({name: ["Unknown or read-only field."] for name in sorted(unknown)})
        return super().to_internal_value(data)


def _names(data: Mapping[Any, Any]) -> set[str]:
    if not isinstance(data, QueryDict):
        return {str(name) for name in data}
    # An HTML form writes the entries of a list as name[0], name[1]
    return {name.partition("[")[0] for name in data} - _FORM_FIELDS
