"""The console's addresses, under `/console/`."""

from django.urls import path

from console import account, entrance, guides, overview, provider_keys, proxy_keys, usage_pages

app_name = "console"
urlpatterns = [
    path("", overview.Overview.as_view(), name="overview"),
    path("sign-up", entrance.SignUp.as_view(), name="sign-up"),
    path("forgotten-password", entrance.Forgotten.as_view(), name="forgotten-password"),
    path("verification", entrance.Verification.as_view(), name="verification"),
    path("keys", proxy_keys.Keys.as_view(), name="keys"),
    path("keys/provider/add", provider_keys.Add.as_view(), name="add-provider-key"),
    path("keys/provider/<uuid:pk>", provider_keys.Change.as_view(), name="provider-key"),
    path("keys/provider/<uuid:pk>/delete", provider_keys.Delete.as_view(), name="delete-provider-key"),
    path("keys/proxy/create", proxy_keys.Create.as_view(), name="create-proxy-key"),
    path("keys/proxy/<uuid:pk>", proxy_keys.Change.as_view(), name="proxy-key"),
    path("keys/proxy/<uuid:pk>/revoke", proxy_keys.Revoke.as_view(), name="revoke-proxy-key"),
    path("usage", usage_pages.Usage.as_view(), name="usage"),
    path("usage/requests.csv", usage_pages.Csv.as_view(), name="usage-csv"),
    path("usage/requests/<uuid:id>", usage_pages.OneRequest.as_view(), name="request"),
    path("playground", guides.Playground.as_view(), name="playground"),
    path("quick-start", guides.QuickStart.as_view(), name="quick-start"),
    path("account", account.Account.as_view(), name="account"),
    path("account/password", account.Password.as_view(), name="change-password"),
    path("account/sign-ins/<uuid:pk>", account.EndSignIn.as_view(), name="end-sign-in"),
    path("account/delete", account.Delete.as_view(), name="delete-account"),
]
