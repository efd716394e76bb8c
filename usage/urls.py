"""The URLs of `/usage/*`; included at the root."""

from django.urls import path

from usage.api import RequestDetail, Requests, UsageSeries, UsageSummary
from usage.price_list import PriceList

urlpatterns = [
    path("prices", PriceList.as_view(), name="prices"),
    path("usage/requests", Requests.as_view(), name="usage-requests"),
    path("usage/requests/<uuid:id>", RequestDetail.as_view(), name="usage-request"),
    path("usage/summary", UsageSummary.as_view(), name="usage-summary"),
    path("usage/series", UsageSeries.as_view(), name="usage-series"),
]
