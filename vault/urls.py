"""The vault's URLs, included at the root."""

from django.urls import path

from vault.api import ApiKeyDetail, ApiKeyList, ApiKeyTest

urlpatterns = [
    path("api-keys", ApiKeyList.as_view(), name="api-keys"),
    path("api-keys/<uuid:pk>", ApiKeyDetail.as_view(), name="api-key"),
    path("api-keys/<uuid:pk>/test", ApiKeyTest.as_view(), name="api-key-test"),
]
