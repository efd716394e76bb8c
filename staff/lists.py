"""Owns what a list of the back-office says when it cannot be narrowed as its query string asks. Knows no model."""

import logging
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ERROR_FLAG, ChangeList
from django.db import DataError, NotSupportedError, ProgrammingError
from django.http import HttpRequest, QueryDict

if TYPE_CHECKING:
    Mixin = admin.ModelAdmin[Any]
else:
    Mixin = object

logger = logging.getLogger(__name__)

# What Django and the database say to a look-up that makes no sense: a year, a range of one, a NUL, text in a number.
_NOT_TO_BE_LOOKED_FOR = (
    IncorrectLookupParameters,
    *(ValueError, OverflowError, IndexError),
    *(DataError, ProgrammingError, NotSupportedError),
)
# Of some hundreds SQLite says what it says of a database that is away, and PostgreSQL thinks about them for a minute.
_MOST_WORDS = 50


class Narrowed(Mixin):
    """Leads to the whole list and says so, whatever was asked of it: before an action begins, none is done then."""

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:  # type: ignore[override]
        """SQLite asks Python's `re`: some regular expressions keep it busy for hours, and the whole worker with it."""
        is_allowed = super().lookup_allowed(lookup, value, request)
        if is_allowed and lookup.endswith(("__regex", "__iregex")):
            raise IncorrectLookupParameters
        return is_allowed

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        if len(search_term.split()) > _MOST_WORDS:
            raise IncorrectLookupParameters
        return super().get_search_results(request, queryset, search_term)

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        asked = request.GET.keys() - {ERROR_FLAG}
        try:
            found = super().get_changelist_instance(request)
            len(found.result_list)  # asks the database
        except _NOT_TO_BE_LOOKED_FOR as error:
            if not asked:
                raise
            logger.warning("A list could not be narrowed as asked: %s", type(error).__name__)
            undone = " Nothing was done." if request.method == "POST" else ""
            self.message_user(request, f"That cannot be looked for: this is the whole list.{undone}", messages.WARNING)
            request.GET = QueryDict()  # a second time in a row Django would say that the database is broken
            raise IncorrectLookupParameters from error
        return found
