"""The control plane's addresses for what only the data plane uses. The data plane's own (`/v1`) are in views.py."""

from django.urls import path

from proxy.api import ModelAliasDetail, ModelAliasList
from proxy.limit_list import Limits

urlpatterns = [
    path("limits", Limits.as_view(), name="limits"),
    path("model-aliases", ModelAliasList.as_view(), name="model-aliases"),
    path("model-aliases/<uuid:pk>", ModelAliasDetail.as_view(), name="model-alias"),
]
