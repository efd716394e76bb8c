"""The control plane's addresses for accounts and proxy keys; the project includes them at its root."""

from django.urls import path

from accounts import api

urlpatterns = [
    path("auth/signup", api.Signup.as_view(), name="signup"),
    path("auth/login", api.Login.as_view(), name="login"),
    path("auth/refresh", api.Refresh.as_view(), name="refresh"),
    path("auth/logout", api.Logout.as_view(), name="logout"),
    path("auth/me", api.Me.as_view(), name="me"),
    path("auth/password", api.Password.as_view(), name="password"),
    path("proxy-api-keys", api.ProxyKeyList.as_view(), name="proxy-keys"),
    path("proxy-api-keys/generate", api.ProxyKeyGenerate.as_view(), name="proxy-key-generate"),
    path("proxy-api-keys/<uuid:id>", api.ProxyKeyDetail.as_view(), name="proxy-key"),
]
