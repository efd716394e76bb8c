"""Owns what a control-plane client is told when no view answers: JSON for programs, a plain page for browsers.

Nothing here says why: no traceback, path, setting or query. The log has it, under the request id.
"""

import sys
from collections.abc import Mapping
from typing import Any

from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template.loader import render_to_string
from django.utils.translation import gettext as _
from django.views.debug import SafeExceptionReporterFilter

REQUEST_ID = "aiproxy.request_id"  # in request.META
RETRY_AFTER_SECONDS = 5


class NoSettings(SafeExceptionReporterFilter):
    """For the page that DEBUG shows: Django masks settings by their names, and would show peppers and database URLs."""

    def get_safe_settings(self) -> dict[str, Any]:
        return {}


def respond(
    request: HttpRequest, status: int, detail: str, *, headers: Mapping[str, str] | None = None
) -> HttpResponse:
    if request.get_preferred_type(["application/json", "text/html"]) == "text/html":
        # Without the request: its context processors would ask the session, and so the database.
        page = render_to_string("error.html", {"status": status, "detail": detail, "request_id": _id_of(request)})
        return HttpResponse(page, status=status, headers=headers)
    return JsonResponse({"detail": detail}, status=status, headers=headers)


def is_database_away(exception: BaseException | None = None) -> bool:
    """Whether the exception (by default: the one being handled) says so; a time-out of the pool does."""
    return isinstance(exception or sys.exc_info()[1], (OperationalError, InterfaceError))


def database_away(request: HttpRequest) -> HttpResponse:
    detail = _("The database cannot be reached. Try again in a few seconds.")
    return respond(request, 503, detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return respond(request, 400, _("The request is malformed."))


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    return respond(request, 403, _("You may not do this."))


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    return respond(request, 403, _("The form has expired. Load the page again and repeat."))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return respond(request, 404, _("There is nothing at this address."))


def server_error(request: HttpRequest) -> HttpResponse:
    """Django calls it while the exception is being handled; an absent database is no error of ours."""
    if is_database_away():
        return database_away(request)
    return respond(
        request, 500, _("The server failed. Quote request %(id)s when you report it.") % {"id": _id_of(request)}
    )


def _id_of(request: HttpRequest) -> str:
    return str(request.META.get(REQUEST_ID, ""))
