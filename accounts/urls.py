"""The control plane's addresses for accounts and proxy keys; the project includes them at its root."""

from django.urls import path

from accounts import account_api, api

urlpatterns = [
    path("auth/signup", api.Signup.as_view(), name="signup"),
    path("auth/login", api.Login.as_view(), name="login"),
    path("auth/refresh", api.Refresh.as_view(), name="refresh"),
    path("auth/logout", api.Logout.as_view(), name="logout"),
    path("auth/me", api.Me.as_view(), name="me"),
    path("auth/password", api.Password.as_view(), name="password"),
    path("auth/sign-ins", account_api.SignIns.as_view(), name="sign-ins"),
    path("auth/sign-ins/<uuid:id>", account_api.SignInDetail.as_view(), name="sign-in"),
    path("auth/verification", account_api.Verification.as_view(), name="verification"),
    path("auth/verification/confirm", account_api.VerificationConfirm.as_view(), name="verification-confirm"),
    path("auth/password-reset", account_api.PasswordReset.as_view(), name="password-reset"),
    path("auth/password-reset/confirm", account_api.PasswordResetConfirm.as_view(), name="password-reset-confirm"),
    path("proxy-api-keys", api.ProxyKeyList.as_view(), name="proxy-keys"),
    path("proxy-api-keys/generate", api.ProxyKeyGenerate.as_view(), name="proxy-key-generate"),
    path("proxy-api-keys/<uuid:id>", api.ProxyKeyDetail.as_view(), name="proxy-key"),
]
