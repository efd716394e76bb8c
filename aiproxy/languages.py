"""Owns which language an answer is in: pages speak their reader's, everything else English, whatever it accepts."""

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils import translation
from django.utils.cache import patch_vary_headers
from django.views.decorators.http import require_POST
from django.views.i18n import set_language

from accounts.models import User

View = Callable[[HttpRequest], HttpResponse]

# Staff's pages are in English as a whole.
_BACK_OFFICE = f"/{settings.AIPROXY_ADMIN_PATH}/"


def is_page(request: HttpRequest) -> bool:
    asks_for_html = request.get_preferred_type(["application/json", "text/html"]) == "text/html"
    return asks_for_html and not f"{request.path_info}/".startswith(_BACK_OFFICE)


def middleware(get_response: View) -> View:
    """The language that was chosen (a cookie says which), else the one that the browser asks for."""

    def middleware(request: HttpRequest) -> HttpResponse:
        page = is_page(request)
        language = translation.get_language_from_request(request) if page else settings.LANGUAGE_CODE
        request.LANGUAGE_CODE = language  # as LocaleMiddleware does
        with translation.override(language):
            response = get_response(request)
        if response.headers.get("Content-Type", "").startswith("text/html"):
            response.headers.setdefault("Content-Language", language)
            patch_vary_headers(response, ["Accept", "Accept-Language", "Cookie"])
        return response

    return middleware


@require_POST
def choose(request: HttpRequest) -> HttpResponse:
    """Keeps the choice in a cookie and, of who is signed in, for the mails to them."""
    user = request.user
    language = request.POST.get("language", "")
    if isinstance(user, User) and translation.check_for_language(language) and language in dict(settings.LANGUAGES):
        user.language = language
        user.save(update_fields=["language"])
    return set_language(request)
