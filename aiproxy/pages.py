"""Owns the two entrances (the landing page for people, the list of endpoints for programs) and how pages look."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import URLPattern, URLResolver
from django.views.decorators.http import require_safe
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

Routes = list[URLPattern | URLResolver]


@require_safe
def landing(request: HttpRequest) -> HttpResponse:
    # one that was moved is not for everybody to find
    is_open = settings.AIPROXY_ADMIN_PATH == "admin" and not settings.AIPROXY_ADMIN_HOST
    context = {"origin": request.build_absolute_uri("/").rstrip("/"), "back_office": is_open}
    return render(request, "landing.html", context)


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
