"""Owns how staff look at tables that only the service writes: nobody changes a row, and nothing counts all of them."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest

if TYPE_CHECKING:
    ModelAdminBase = admin.ModelAdmin[Any]
    PaginatorBase = Paginator[Model]
else:
    ModelAdminBase = admin.ModelAdmin
    PaginatorBase = Paginator


class BoundedPaginator(PaginatorBase):
    """Counts to 1,000 and no further: whoever needs more narrows the filters."""

    MOST = 1_000

    @cached_property
    def count(self) -> int:
        rows = self.object_list
        assert isinstance(rows, QuerySet)
        return rows.order_by()[: self.MOST].count()


class ReadOnlyAdmin(ModelAdminBase):
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = BoundedPaginator
    list_per_page = 50
    list_max_show_all = 200
    actions = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False
