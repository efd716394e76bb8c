"""Owns what the console's pages share: who may see them, where one is, how the API's refusals become a form's."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib.auth.mixins import LoginRequiredMixin
from django.core.exceptions import BadRequest, ObjectDoesNotExist
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.decorators import method_decorator
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters
from django.views.generic import FormView, TemplateView
from rest_framework.exceptions import APIException, ValidationError
from rest_framework.parsers import FormParser
from rest_framework.request import Request
from rest_framework.serializers import BaseSerializer
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from accounts.errors import as_answer as answer_of_accounts
from accounts.models import User
from accounts.pagination import Keyset
from vault.api import as_answer as answer_of_vault

if TYPE_CHECKING:
    BaseForm = FormView[Any]
else:
    BaseForm = FormView

# URL name, and what the navigation calls it.
SECTIONS = (
    ("console:overview", _("Overview")),
    ("console:keys", _("Keys")),
    ("console:usage", _("Usage")),
    ("console:playground", _("Playground")),
    ("console:quick-start", _("Quick start")),
    ("console:account", _("Account")),
)


def as_api(request: HttpRequest) -> Request:
    """As the API's functions and throttles take it, of whoever is signed in by the session."""
    asked = Request(request, parsers=[FormParser()])
    asked.user, asked.auth = request.user, None
    return asked


def origin(request: HttpRequest) -> str:
    """Where clients reach this service, as in `https://ai.example.org`."""
    return str(settings.AIPROXY_PUBLIC_URL or request.build_absolute_uri("/")).rstrip("/")


def one_page(request: HttpRequest, rows: QuerySet[Any], size: int) -> tuple[list[Any], str | None]:
    """A page of rows, and the link to the next one. A cursor that is none of ours is 400."""
    pages = Keyset()
    pages.page_size = size
    try:
        page = pages.paginate_queryset(rows, as_api(request))
    except ValidationError as error:
        raise BadRequest from error
    return page or [], pages.next_link


class Page(LoginRequiredMixin, TemplateView):
    """A page of whoever is signed in; anybody else is asked to. No cache keeps it."""

    section = ""  # the URL name in SECTIONS
    http_method_names = ["get", "post", "head", "options"]

    @property
    def user(self) -> User:
        assert isinstance(self.request.user, User)
        return self.request.user

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        response = super().dispatch(request, *args, **kwargs)
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(sections=SECTIONS, section=self.section, **kwargs)


class Refusals(BaseForm):
    """A form whose rules, limits and refusals are the API's; `act` does what it asks for."""

    throttles: Sequence[type[BaseThrottle]] = ()
    http_method_names = ["get", "post", "head", "options"]

    @method_decorator(sensitive_post_parameters())
    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return super().dispatch(request, *args, **kwargs)

    def act(self, form: Any) -> HttpResponse:
        raise NotImplementedError

    def get_form_kwargs(self) -> dict[str, Any]:
        more = {"request": self.request} if issubclass(self.get_form_class(), ApiForm) else {}
        return super().get_form_kwargs() | more

    def form_valid(self, form: Any) -> HttpResponse:
        try:
            check_throttles(self.request, self.throttles)
            return self.act(form)
        except ObjectDoesNotExist as error:  # deleted meanwhile
            raise Http404 from error
        except Exception as error:
            answer = answer_of_vault(answer_of_accounts(error))
            if not isinstance(answer, APIException):
                raise
            take_errors(form, answer.detail)
            return self.refuse(form, answer.status_code)

    def form_invalid(self, form: Any) -> HttpResponse:
        return self.refuse(form)

    def refuse(self, form: Any, status: int = 400) -> HttpResponse:
        return self.render_to_response(self.get_context_data(form=form), status=status)


class FormPage(Refusals, Page):
    """A page with one form."""


def check_throttles(request: HttpRequest, throttles: Sequence[type[BaseThrottle]]) -> None:
    """Throttled, with the seconds to wait."""
    view = APIView()
    view.throttle_classes = throttles
    view.check_throttles(as_api(request))


def take_errors(form: forms.Form, errors: Any, field: str | None = None) -> None:
    """What the API says of a field goes to the form's field of that name, all else to the form."""
    if isinstance(errors, Mapping):
        for name, texts in errors.items():
            take_errors(form, texts, name if name in form.fields else field)
    elif isinstance(errors, list):
        for text in errors:
            take_errors(form, text, field)
    else:
        form.add_error(field, str(errors))


class ApiForm(forms.Form):
    """Fields for people; their rules are those of the API's serializer, which is asked. `accepted` is what it takes.

    Of a row that is there (`instance`) only what was changed is sent.
    """

    serializer: type[BaseSerializer[Any]]

    def __init__(self, *args: Any, request: HttpRequest, instance: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.request, self.instance = request, instance
        self.accepted: dict[str, Any] = {}

    def sent(self) -> dict[str, Any]:
        names = self.fields if self.instance is None else self.changed_data
        return {name: self.cleaned_data[name] for name in names if name in self.cleaned_data}

    def clean(self) -> dict[str, Any]:
        if not self.errors:
            more = {} if self.instance is None else {"instance": self.instance, "partial": True}
            serializer = self.serializer(data=self.sent(), context={"request": as_api(self.request)}, **more)
            if serializer.is_valid():
                self.accepted = serializer.validated_data
            else:
                take_errors(self, serializer.errors)
        return self.cleaned_data


def own(rows: QuerySet[Any], user: User, id: UUID) -> Any:
    """The user's row of this id; 404 for anybody else's."""
    row = rows.filter(user=user, pk=id).first()
    if row is None:
        raise Http404
    return row
