"""Owns how the control plane answers what went wrong beneath a view. No text here comes from a stack."""

import math
from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse
from rest_framework import exceptions, status
from rest_framework.response import Response
from rest_framework.views import exception_handler as drf_exception_handler

from accounts.authentication import CHALLENGE
from accounts.epoch import EpochNotPublished
from accounts.hashers import HashingBusy
from accounts.keys import AccountChanged, KeyRevoked, PlanLimitReached
from accounts.mail import MailNotConfigured


class Conflict(exceptions.APIException):
    status_code = status.HTTP_409_CONFLICT
    default_detail = "This collides with what is there already."
    default_code = "conflict"


class ServiceUnavailable(exceptions.APIException):
    status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    default_detail = "Not available right now. Try again in a moment."
    default_code = "unavailable"
    wait = 1  # seconds; DRF makes Retry-After of it


def _busy(error: Exception) -> exceptions.APIException:
    return exceptions.Throttled(detail="Too many passwords and keys are being checked.", wait=HashingBusy.retry_after)


def _signed_out(error: Exception) -> exceptions.APIException:
    failed = exceptions.AuthenticationFailed("Your account has changed. Sign in again.")
    failed.auth_header = CHALLENGE  # type: ignore[attr-defined]  # what APIView sets, and the handler reads
    return failed


_ANSWERS: dict[type[Exception], Callable[[Exception], exceptions.APIException]] = {
    EpochNotPublished: lambda error: ServiceUnavailable(str(error), code="workers_not_told"),
    HashingBusy: _busy,
    PlanLimitReached: lambda error: Conflict(str(error), code="plan_limit"),
    KeyRevoked: lambda error: Conflict(str(error)),
    AccountChanged: _signed_out,
    MailNotConfigured: lambda error: ServiceUnavailable(str(error), code="no_mail"),
    # a body of a hundred thousand brackets; json's ValueErrors are DRF's own business
    RecursionError: lambda error: exceptions.ParseError("The body is nested too deeply."),
}


def as_answer(error: Exception) -> Exception:
    """The API's error for one of this app's; any other as it is."""
    answer = _ANSWERS.get(type(error))
    return answer(error) if answer else error


def exception_handler(exc: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's EXCEPTION_HANDLER: the exceptions of this app become answers, the rest is DRF's."""
    return drf_exception_handler(as_answer(exc), context)


class PlainAnswers:
    """Middleware: the same for Django's own pages (the admin and its login), where DRF's handler is not asked."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if not isinstance(exception, (EpochNotPublished, HashingBusy, ServiceUnavailable)):
            return None
        answer: Any = as_answer(exception)
        headers = {"Retry-After": str(math.ceil(getattr(answer, "wait", 1)))}
        return HttpResponse(str(answer.detail), status=answer.status_code, content_type="text/plain", headers=headers)
