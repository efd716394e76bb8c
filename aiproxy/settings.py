"""Every setting, read from the environment (each also as NAME_FILE); docs/configuration.md explains them.

A `.env` file beside manage.py, or at AIPROXY_ENV_FILE, fills what the environment leaves out.
Mistakes are reported by the system checks in aiproxy/checks.py, with ids and hints.
"""

import logging
import os
import secrets
from datetime import timedelta
from pathlib import Path
from typing import Any

from aiproxy.environment import Environment

BASE_DIR = Path(__file__).resolve().parent.parent
SHORTEST = 0.001  # seconds: with a time-out of 0 nothing would ever be in time
YEAR_MINUTES = 525_600
MOST_WORKERS = 1024
env = Environment.read(os.environ.get("AIPROXY_ENV_FILE") or BASE_DIR / ".env")

# --- Secrets: one purpose each; the checks refuse missing, short, example or equal ones -------------
# Django cannot run its checks without a key: a made-up one lets them say what is missing, and dies with the process.
SECRET_KEY = env.str("SECRET_KEY", "") or f"missing-{secrets.token_urlsafe(48)}"
AIPROXY_JWT_KEY = env.str("AIPROXY_JWT_KEY", "") or f"missing-{secrets.token_urlsafe(48)}"
AIPROXY_FINGERPRINT_KEY = env.str("AIPROXY_FINGERPRINT_KEY", "")
# Keysets "id:base64,id:base64": the first signs or encrypts, the others still verify or decrypt.
AIPROXY_PEPPERS = env.str("AIPROXY_PEPPERS", "")
AIPROXY_MASTER_KEYS = env.str("AIPROXY_MASTER_KEYS", "")

# --- Where things are ------------------------------------------------------------------------------
AIPROXY_DATA_DIR = os.path.abspath(env.str("AIPROXY_DATA_DIR", "") or BASE_DIR / "var")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS") or ["localhost", "127.0.0.1", "[::1]"]
DATABASE_URL = env.str("DATABASE_URL", "") or f"sqlite:///{AIPROXY_DATA_DIR}/aiproxy.sqlite3"
REDIS_URL = env.str("REDIS_URL", "")
DEBUG = env.bool("DEBUG", False)
# True: cookies are sent over TLS only, and browsers are told to stay on it.
AIPROXY_HTTPS = env.bool("AIPROXY_HTTPS", True)
# Networks whose X-Forwarded-For and X-Forwarded-Proto are believed; none by default.
AIPROXY_TRUSTED_PROXIES = env.list("AIPROXY_TRUSTED_PROXIES")
AIPROXY_CORS_ORIGINS = env.list("AIPROXY_CORS_ORIGINS")
# Names this installation in `Via`, so that a request that comes back to us is refused.
AIPROXY_INSTANCE_ID = env.str("AIPROXY_INSTANCE_ID", "")
AIPROXY_METRICS_TOKEN = env.str("AIPROXY_METRICS_TOKEN", "")
# A port of its own asks for no token, so it listens on the loopback unless told otherwise; 0: none.
AIPROXY_METRICS_PORT = env.int("AIPROXY_METRICS_PORT", 0, most=65_535)
AIPROXY_METRICS_HOST = env.str("AIPROXY_METRICS_HOST", "127.0.0.1")
# Where an OpenTelemetry collector takes OTLP over HTTP; empty: nobody is told.
AIPROXY_OTLP_ENDPOINT = env.str("AIPROXY_OTLP_ENDPOINT", "")
AIPROXY_LOG_LEVEL = env.str("AIPROXY_LOG_LEVEL", "INFO").upper()
AIPROXY_LOG_FORMAT = env.str("AIPROXY_LOG_FORMAT", "line")  # or json

# --- Mail ------------------------------------------------------------------------------------------
# Empty: nobody is written to. Never the console unless asked for: links that set a password would stand in its log.
EMAIL_URL = env.str("EMAIL_URL", "") or ("consolemail://" if DEBUG else "")
_mail = env.mail("EMAIL_URL", EMAIL_URL or "dummymail://")
EMAIL_BACKEND = _mail["EMAIL_BACKEND"]
EMAIL_FILE_PATH = _mail["EMAIL_FILE_PATH"]
EMAIL_HOST, EMAIL_PORT = _mail["EMAIL_HOST"] or "localhost", _mail["EMAIL_PORT"] or 25
EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = _mail["EMAIL_HOST_USER"] or "", _mail["EMAIL_HOST_PASSWORD"] or ""
EMAIL_USE_TLS, EMAIL_USE_SSL = _mail.get("EMAIL_USE_TLS", False), _mail.get("EMAIL_USE_SSL", False)
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = env.str("AIPROXY_MAIL_FROM", "aiproxy@localhost")
# Where links in mails lead; empty: where the request came in.
AIPROXY_PUBLIC_URL = env.str("AIPROXY_PUBLIC_URL", "")
# Where no mail is sent nobody could verify anything.
AIPROXY_UNVERIFIED_MAY_PROXY = env.bool("AIPROXY_UNVERIFIED_MAY_PROXY", DEBUG or not EMAIL_URL)

# --- Providers: the operator's own word on where a key may be sent --------------------------------
AIPROXY_OPENAI_BASE_URL = env.str("AIPROXY_OPENAI_BASE_URL", "https://api.openai.com/v1")
AIPROXY_ANTHROPIC_BASE_URL = env.str("AIPROXY_ANTHROPIC_BASE_URL", "https://api.anthropic.com")
AIPROXY_GOOGLE_BASE_URL = env.str("AIPROXY_GOOGLE_BASE_URL", "https://generativelanguage.googleapis.com")
AIPROXY_ALIBABA_BASE_URL = env.str("AIPROXY_ALIBABA_BASE_URL", "https://dashscope-intl.aliyuncs.com/compatible-mode/v1")
AIPROXY_UPSTREAM_PROXY = env.str("AIPROXY_UPSTREAM_PROXY", "")  # an HTTP CONNECT proxy, http://host:port
AIPROXY_UPSTREAM_CA_FILE = env.str("AIPROXY_UPSTREAM_CA_FILE", "")  # more trust roots, PEM

# --- The data plane: time-outs in seconds, sizes in bytes -------------------------------------------
AIPROXY_CONNECT_TIMEOUT = env.float("AIPROXY_CONNECT_TIMEOUT", 5, least=SHORTEST)
AIPROXY_TLS_TIMEOUT = env.float("AIPROXY_TLS_TIMEOUT", 5, least=SHORTEST)
AIPROXY_FIRST_BYTE_TIMEOUT = env.float("AIPROXY_FIRST_BYTE_TIMEOUT", 600, least=SHORTEST)
AIPROXY_STREAM_IDLE_TIMEOUT = env.float("AIPROXY_STREAM_IDLE_TIMEOUT", 300, least=SHORTEST)
AIPROXY_TOTAL_TIMEOUT = env.float("AIPROXY_TOTAL_TIMEOUT", 3600, least=SHORTEST)
AIPROXY_RETRY_AFTER_WAIT = env.float("AIPROXY_RETRY_AFTER_WAIT", 2)
AIPROXY_BREAKER_FAILURES = env.int("AIPROXY_BREAKER_FAILURES", 5)
AIPROXY_BREAKER_WINDOW = env.float("AIPROXY_BREAKER_WINDOW", 30)
AIPROXY_BREAKER_REST = env.float("AIPROXY_BREAKER_REST", 10)
AIPROXY_HEADER_TIMEOUT = env.float("AIPROXY_HEADER_TIMEOUT", 10, least=SHORTEST)
AIPROXY_BODY_IDLE_TIMEOUT = env.float("AIPROXY_BODY_IDLE_TIMEOUT", 30, least=SHORTEST)
AIPROXY_WRITE_TIMEOUT = env.float("AIPROXY_WRITE_TIMEOUT", 30, least=SHORTEST)
AIPROXY_KEEPALIVE_TIMEOUT = env.float("AIPROXY_KEEPALIVE_TIMEOUT", 75)
AIPROXY_GRACE = env.float("AIPROXY_GRACE", 30, least=1, most=86_400)
AIPROXY_MAX_BODY = env.int("AIPROXY_MAX_BODY", 32 << 20, least=1)
AIPROXY_MAX_BODIES = env.int("AIPROXY_MAX_BODIES", 256 << 20, least=1)
AIPROXY_POLICY_MAX_AGE = env.float("AIPROXY_POLICY_MAX_AGE", 900)
AIPROXY_DATABASE_TIMEOUT = env.float("AIPROXY_DATABASE_TIMEOUT", 1.0, least=SHORTEST)
AIPROXY_REDIS_TIMEOUT = env.float("AIPROXY_REDIS_TIMEOUT", 0.05, least=SHORTEST)
# How many workers share the limits while Redis is away; `serve` sets it to its --workers.
AIPROXY_WORKERS = env.int("AIPROXY_WORKERS", 1, least=1, most=MOST_WORKERS)
AIPROXY_JOURNAL_SEGMENT = env.int("AIPROXY_JOURNAL_SEGMENT", 8 << 20, least=40_960, most=1 << 40)

# --- The back-office --------------------------------------------------------------------------------
AIPROXY_ADMIN_PATH = env.str("AIPROXY_ADMIN_PATH", "").strip("/") or "admin"
AIPROXY_ADMIN_HOST = env.str("AIPROXY_ADMIN_HOST", "").lower()  # one of ALLOWED_HOSTS; empty: all of them
# Staff who have enrolled are asked for it in any case.
AIPROXY_ADMIN_SECOND_FACTOR = env.bool("AIPROXY_ADMIN_SECOND_FACTOR", not DEBUG)
AIPROXY_ADMIN_SESSION_HOURS = env.float("AIPROXY_ADMIN_SESSION_HOURS", 8, most=8_760)
AIPROXY_ADMIN_IDLE_MINUTES = env.float("AIPROXY_ADMIN_IDLE_MINUTES", 30, most=YEAR_MINUTES)
AIPROXY_ADMIN_PROOF_MINUTES = env.float("AIPROXY_ADMIN_PROOF_MINUTES", 15, most=YEAR_MINUTES)

# --- Django ----------------------------------------------------------------------------------------
INSTALLED_APPS = [
    "aiproxy.apps.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "django_filters",
    "corsheaders",
    "axes",
    "django_prometheus",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "aiproxy.apps.AiproxyConfig",
    "audit.apps.AuditConfig",
    "accounts.apps.AccountsConfig",
    "vault.apps.VaultConfig",
    "proxy.apps.ProxyConfig",
    "usage.apps.UsageConfig",
    "console.apps.ConsoleConfig",
    "staff.apps.StaffConfig",
]

MIDDLEWARE = [
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "aiproxy.middleware.request_id",
    "aiproxy.middleware.client_address",
    "aiproxy.languages.middleware",
    "aiproxy.middleware.audited",
    "aiproxy.middleware.probes",
    "aiproxy.middleware.database_away",
    "aiproxy.middleware.back_office_host",
    "accounts.errors.PlainAnswers",
    "aiproxy.middleware.content_security_policy",
    "django.middleware.security.SecurityMiddleware",
    "aiproxy.middleware.StaticFiles",
    "corsheaders.middleware.CorsMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django_otp.middleware.OTPMiddleware",
    "staff.sessions.middleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
    "aiproxy.metrics.AfterMiddleware",
]

ROOT_URLCONF = "aiproxy.urls"
DEFAULT_EXCEPTION_REPORTER_FILTER = "aiproxy.errors.NoSettings"
ASGI_APPLICATION = "aiproxy.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "aiproxy.pages.appearance",
            ],
        },
    },
]

DATABASES: dict[str, dict[str, Any]] = {"default": env.database("DATABASE_URL", DATABASE_URL)}
_database = DATABASES["default"]
if _database["ENGINE"].endswith("sqlite3"):
    _database["OPTIONS"] = {
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;",
    }
else:
    _database["CONN_MAX_AGE"] = 0
    _database["CONN_HEALTH_CHECKS"] = True
    _database["OPTIONS"] = {
        **_database.get("OPTIONS", {}),
        "connect_timeout": 5,
        "pool": {
            "min_size": 0,
            "max_size": env.int("AIPROXY_DB_POOL", 10, least=1),
            "timeout": 5,
            "max_idle": 60,
            # An attempt's pauses double until it is given up; only then, whoever asks next begins another.
            "reconnect_timeout": 5,
        },
    }

CACHES: dict[str, dict[str, Any]] = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "aiproxy:cache",
        "OPTIONS": {"SOCKET_CONNECT_TIMEOUT": 1, "SOCKET_TIMEOUT": 1, "IGNORE_EXCEPTIONS": True},
    }
    if REDIS_URL
    else {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
}

AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
PASSWORD_HASHERS = ["accounts.hashers.Argon2id"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 10},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]

AXES_FAILURE_LIMIT = env.int("AIPROXY_LOGIN_FAILURES", 10, least=1)
AXES_COOLOFF_TIME = timedelta(minutes=env.int("AIPROXY_LOGIN_COOLOFF_MINUTES", 15, least=1, most=YEAR_MINUTES))
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_USERNAME_CALLABLE = "aiproxy.sessions.login_name"
AXES_RESET_ON_SUCCESS = True
AXES_VERBOSE = False
AXES_LOCKOUT_CALLABLE = "aiproxy.sessions.locked_out"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "accounts.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": [
        "rest_framework.renderers.JSONRenderer",
        "rest_framework.renderers.BrowsableAPIRenderer",
    ],
    "DEFAULT_PARSER_CLASSES": [
        "accounts.strict.JSONParser",
        "accounts.strict.FormParser",
    ],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "accounts.errors.exception_handler",
    "DEFAULT_THROTTLE_RATES": {
        "signup": env.rate("AIPROXY_SIGNUP_RATE", "20/hour"),  # an address
        "login": env.rate("AIPROXY_LOGIN_RATE", "60/minute"),  # an address
        "password": env.rate("AIPROXY_PASSWORD_RATE", "10/minute"),  # a user
        "mail": env.rate("AIPROXY_MAIL_RATE", "20/hour"),  # an address
        "mail_recipient": env.rate("AIPROXY_MAIL_RECIPIENT_RATE", "5/hour"),  # an e-mail address
        "proxy_keys": env.rate("AIPROXY_PROXY_KEYS_RATE", "60/minute"),  # a user
    },
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}

SPECTACULAR_SETTINGS = {
    "TITLE": "aiproxy",
    "DESCRIPTION": "Two planes at one address. The control plane manages accounts, keys and usage, and wants an access "
    "token or a browser's session; the data plane, `/v1`, speaks OpenAI's and Anthropic's API, and wants a proxy key.",
    "VERSION": "0.1.0",
    "OAS_VERSION": "3.1.1",
    "COMPONENT_SPLIT_REQUEST": True,  # a key is in what is sent, never in what is answered
    "POSTPROCESSING_HOOKS": ["drf_spectacular.hooks.postprocess_schema_enums", "aiproxy.openapi.complete"],
    "ENUM_NAME_OVERRIDES": {"Provider": "vault.models.Provider", "Outcome": "usage.models.Outcome"},
}

SIMPLE_JWT = {
    "SIGNING_KEY": AIPROXY_JWT_KEY,
    "ALGORITHM": "HS256",
    "ISSUER": "aiproxy",
    "AUDIENCE": "aiproxy",
    "ACCESS_TOKEN_LIFETIME": timedelta(minutes=env.int("AIPROXY_ACCESS_TOKEN_MINUTES", 10, least=1, most=YEAR_MINUTES)),
    "REFRESH_TOKEN_LIFETIME": timedelta(days=env.int("AIPROXY_REFRESH_TOKEN_DAYS", 14, least=1, most=3_650)),
    "CHECK_REVOKE_TOKEN": True,  # a password change ends every token; accounts/tokens.py does the rotation
}

CORS_ALLOWED_ORIGINS = AIPROXY_CORS_ORIGINS
CORS_EXPOSE_HEADERS = ["x-request-id", "retry-after"]
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS")
CSRF_FAILURE_VIEW = "aiproxy.errors.csrf_failure"
# aiproxy.middleware.client_address removes the header unless a trusted proxy wrote it.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = AIPROXY_HTTPS
SESSION_COOKIE_HTTPONLY = True
SECURE_HSTS_SECONDS = 31_536_000 if AIPROXY_HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = AIPROXY_HTTPS
# The ingress owns the redirect to TLS: behind it every request looks like plain HTTP.
SECURE_SSL_REDIRECT = False
SILENCED_SYSTEM_CHECKS = ["security.W008"]
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
DATA_UPLOAD_MAX_MEMORY_SIZE = 1 << 20

LOGIN_URL = "/auth/session/login"
LOGIN_REDIRECT_URL = "/console/"
LOGOUT_REDIRECT_URL = "/"
STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
WHITENOISE_USE_FINDERS = not STATIC_ROOT.is_dir()  # an image has them collected; a checkout need not
WHITENOISE_ALLOW_ALL_ORIGINS = False
LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("id", "Bahasa Indonesia")]
LOCALE_PATHS = [BASE_DIR / "locale"]
LANGUAGE_COOKIE_AGE = 365 * 24 * 3600
LANGUAGE_COOKIE_SAMESITE = "Lax"
LANGUAGE_COOKIE_SECURE = AIPROXY_HTTPS
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = True
FORMAT_MODULE_PATH = "aiproxy.formats"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": "aiproxy.logs.Line"}, "json": {"()": "aiproxy.logs.Json"}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "json" if AIPROXY_LOG_FORMAT == "json" else "line"},
    },
    "root": {
        "handlers": ["stderr"],
        "level": AIPROXY_LOG_LEVEL if AIPROXY_LOG_LEVEL in logging.getLevelNamesMapping() else "INFO",
    },
    "loggers": {
        "django": {"handlers": [], "level": "NOTSET", "propagate": True},
        "django.server": {"handlers": [], "level": "NOTSET", "propagate": True},
        # Anybody can cause these at will: 4xx answers, and a Host that is not ours.
        "django.request": {"level": "ERROR"},
        "django.security.DisallowedHost": {"level": "CRITICAL"},
        "axes": {"level": "WARNING"},
        "django.template": {"level": "INFO"},  # at DEBUG it writes down all that a page shows, keys and codes too
        "httpx": {"level": "WARNING"},
        "httpcore": {"level": "WARNING"},  # at DEBUG it writes down what providers answer, headers and all
    },
}
