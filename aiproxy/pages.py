"""Owns the entrance for programs, the list of endpoints, and how pages look."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from django.urls import URLPattern, URLResolver
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

Routes = list[URLPattern | URLResolver]


def appearance(request: HttpRequest) -> dict[str, str]:
    """For every template: `theme`, what site.js keeps in a cookie; '' follows the system."""
    theme = request.COOKIES.get("theme", "")
    return {"theme": theme if theme in ("light", "dark") else ""}


@dataclass(frozen=True, slots=True)
class Route:
    path: str  # as `/api-keys/<uuid:id>`
    pattern: URLPattern


def walk(routes: Routes, prefix: str = "/") -> Iterator[Route]:
    """Every route, however deep it is included."""
    for route in routes:
        path = prefix + str(route.pattern)
        if isinstance(route, URLResolver):
            yield from walk(route.url_patterns, path)
        else:
            yield Route(path, route)


class ApiRoot(APIView):
    """The endpoints of the control plane. The data plane, `/v1`, speaks OpenAI's API."""

    name = "aiproxy"
    permission_classes = [AllowAny]
    routes: Any = ()

    @extend_schema(operation_id="listEndpoints", summary="The endpoints", responses={200: OpenApiTypes.OBJECT})
    def get(self, request: Request) -> Response:
        own = sorted({route.path for route in walk(list(self.routes))})
        return Response({path: request.build_absolute_uri(path) if "<" not in path else None for path in own})
