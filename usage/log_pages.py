"""Owns how staff page through the log and narrow it: by the last row seen, and by indexes; nothing is ever counted."""

import datetime as dt
from collections.abc import Iterable, Iterator
from functools import reduce
from operator import or_
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db import OperationalError, connection, transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from accounts.ids import made_at
from accounts.models import ProxyKey, User
from usage import periods
from usage.models import NOT_ERRORS, Outcome, ProxyRequest, ProxyRequestQuerySet, TotalHour, UsageHour, first_id
from vault.models import ApiKey, Provider

BEFORE, AFTER = "before", "after"
PATIENCE_MS = 5_000
TOO_SLOW = "The database found too little in five seconds. Choose a shorter time, or a user."
_QUERY_CANCELED = "57014"
_FAILED = [outcome for outcome in Outcome if outcome not in NOT_ERRORS]


class LogPages(ChangeList):
    """`?before=ID` is the page of what is older than that row, `?after=ID` of what is newer."""

    older = newer = ""  # links

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[ProxyRequest]:
        self._cursors = {name: self._take_cursor(name) for name in (BEFORE, AFTER)}
        return super().get_queryset(request, exclude_parameters)

    def _take_cursor(self, name: str) -> UUID | None:
        self.params.pop(name, None)
        values = self.filter_params.pop(name, None)  # so that no link to another filter keeps the place in this one
        try:
            return UUID(values[-1]) if values else None
        except ValueError as error:
            raise IncorrectLookupParameters from error

    def get_results(self, request: HttpRequest) -> None:
        before, after = self._cursors[BEFORE], self._cursors[AFTER]
        assert isinstance(self.queryset, ProxyRequestQuerySet)
        rows = self.queryset
        if after is not None:
            rows = rows.filter(id__gt=after, created_at__gte=made_at(after)).reverse()
        elif before is not None:
            rows = rows.filter(id__lt=before, created_at__lte=made_at(before))
        page = self._read(request, rows[: self.list_per_page + 1])
        more, page = len(page) > self.list_per_page, page[: self.list_per_page]
        if after is not None:
            page.reverse()
        if page:
            self.older = self._link(BEFORE, page[-1]) if more or after is not None else ""
            self.newer = self._link(AFTER, page[0]) if before is not None or (after is not None and more) else ""
        name_people(page)
        self.result_list, self.result_count = page, len(page)
        self.full_result_count = self.result_count  # as if there were no more: the search box says nothing then
        self.show_full_result_count = self.show_admin_actions = self.can_show_all = self.multi_page = False
        self.paginator = Paginator(page, self.list_per_page)

    def _read(self, request: HttpRequest, rows: QuerySet[ProxyRequest]) -> list[ProxyRequest]:
        """What is rare and has no index could take the database minutes to not find: it is given up on."""
        if connection.vendor != "postgresql":
            return list(rows)
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SELECT set_config('statement_timeout', %s, true)", [str(PATIENCE_MS)])
                return list(rows)
        except OperationalError as error:
            if getattr(error.__cause__, "sqlstate", "") != _QUERY_CANCELED:
                raise
            self.model_admin.message_user(request, TOO_SLOW, messages.WARNING)
            return []

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[ProxyRequest]) -> list[Any]:
        """The same order either way; by time it is that of a user's index, by id that of the primary key."""
        is_of_user = any(name in request.GET for name in ("user", "proxy_key", "api_key"))
        return ["-created_at", "-id"] if is_of_user else ["-id"]

    def _link(self, name: str, row: ProxyRequest) -> str:
        return self.get_query_string({name: str(row.id)})


class HourPages(ChangeList):
    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list = list(self.result_list)
        name_people(self.result_list)


def name_people(rows: Iterable[ProxyRequest | UsageHour]) -> None:
    """Gives each row its user's address as `email`; '' if they are gone. One query for all: the log has no keys."""
    rows = list(rows)
    emails = dict(User.objects.filter(pk__in={row.user_id for row in rows}).values_list("pk", "email"))
    for row in rows:
        row.email = emails.get(row.user_id, "")


class PeriodFilter(admin.SimpleListFilter):
    """The last day unless more is asked for: a list without a bound would look into every month."""

    title = "time"
    parameter_name = "when"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [*((text, label) for text, (label, _) in periods.LAST.items()), (periods.ALL, "All")]

    def choices(self, changelist: Any) -> Iterator[Any]:
        chosen = self.value() or periods.DEFAULT
        for text, label in self.lookup_choices:
            link = changelist.get_query_string({self.parameter_name: text})
            yield {"selected": chosen == text, "query_string": link, "display": label}

    @property
    def period(self) -> periods.Period:
        try:
            return periods.parse(self.value() or periods.DEFAULT, timezone.now())
        except (ValueError, OverflowError) as error:
            raise IncorrectLookupParameters from error

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        period = self.period
        if period.since is not None:
            queryset = self.since(queryset, period.since)
        return queryset if period.until is None else self.until(queryset, period.until)

    # Ids are in order of time, and are what the list is sorted by; `created_at` leaves the other months alone.
    def since(self, queryset: QuerySet[Any], moment: dt.datetime) -> QuerySet[Any]:
        return queryset.filter(created_at__gte=moment, id__gte=first_id(moment))

    def until(self, queryset: QuerySet[Any], moment: dt.datetime) -> QuerySet[Any]:
        return queryset.filter(created_at__lt=moment, id__lt=first_id(moment))


class HoursFilter(PeriodFilter):
    def since(self, queryset: QuerySet[Any], moment: dt.datetime) -> QuerySet[Any]:
        return queryset.filter(hour__gte=periods.beginning(moment, "hour"))

    def until(self, queryset: QuerySet[Any], moment: dt.datetime) -> QuerySet[Any]:
        return queryset.filter(hour__lt=moment)


class ProviderFilter(admin.SimpleListFilter):
    """Fixed choices: finding them in the log would read all of it."""

    title = "provider"
    parameter_name = "provider"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(value, str(label)) for value, label in Provider.choices]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(provider=self.value()) if self.value() else queryset


class OutcomeFilter(admin.SimpleListFilter):
    title = "outcome"
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("failed", "Any failure"),
            *((value, value.replace("_", " ").capitalize()) for value in Outcome.values),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() == "failed":
            return queryset.filter(outcome__in=_FAILED)
        return queryset.filter(outcome=self.value()) if self.value() else queryset


class ExactFilter(admin.ListFilter):
    """Set by links from elsewhere; seen only while it is in use, so that it can be taken away."""

    parameter_name = ""

    def __init__(self, request: HttpRequest, params: dict[str, Any], model: Any, model_admin: Any) -> None:
        super().__init__(request, params, model, model_admin)
        values = params.pop(self.parameter_name, None)
        self.value = str(values[-1]) if values else ""

    def has_output(self) -> bool:
        return bool(self.value)

    def expected_parameters(self) -> list[str | None]:
        return [self.parameter_name]

    def choices(self, changelist: Any) -> Iterator[Any]:
        without = changelist.get_query_string(remove=[self.parameter_name])
        yield {"selected": False, "query_string": without, "display": "Any"}
        yield {"selected": True, "query_string": changelist.get_query_string(), "display": self.label()}

    def label(self) -> str:
        return self.value

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        try:
            return self.narrow(queryset)
        except ValueError as error:
            raise IncorrectLookupParameters from error

    def narrow(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Raises ValueError if the value cannot be one."""
        return queryset.filter(**{self.parameter_name: self.value})


class ModelFilter(ExactFilter):
    """No index has it: the sums tell in which hours it was used. Where these are few, only they are looked into."""

    title = parameter_name = "model"
    FEW = 50

    def narrow(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        rows = queryset.filter(model=self.value)
        if queryset.model is not ProxyRequest:
            return rows
        used = TotalHour.objects.filter(model=self.value).values_list("hour", flat=True).distinct().order_by()
        hours = list(used[: self.FEW + 1])
        if len(hours) > self.FEW:
            return rows
        return rows.filter(reduce(or_, map(_within, hours))) if hours else rows.none()


def _within(hour: dt.datetime) -> Q:
    end = hour + dt.timedelta(hours=1)
    return Q(created_at__gte=hour, created_at__lt=end, id__gte=first_id(hour), id__lt=first_id(end))


class UserFilter(ExactFilter):
    title = parameter_name = "user"

    def label(self) -> str:
        return User.objects.filter(pk=UUID(self.value)).values_list("email", flat=True).first() or self.value

    def narrow(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(user_id=UUID(self.value))


class _KeyFilter(ExactFilter):
    """By the key's owner too: their rows have an index, and its own have none."""

    model: type[ProxyKey | ApiKey]

    def narrow(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        id = UUID(self.value)
        owner = self.model._default_manager.filter(pk=id).values_list("user_id", flat=True).first()
        rows = queryset if owner is None else queryset.filter(user_id=owner)
        return rows.filter(**{f"{self.parameter_name}_id": id})


class ProxyKeyFilter(_KeyFilter):
    title, parameter_name, model = "proxy key", "proxy_key", ProxyKey


class ApiKeyFilter(_KeyFilter):
    title, parameter_name, model = "provider key", "api_key", ApiKey


class SlowerFilter(ExactFilter):
    title, parameter_name = "latency", "slower_than"

    def label(self) -> str:
        return f"over {self.value} ms"

    def narrow(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(latency_ms__gt=int(self.value[:9]))
