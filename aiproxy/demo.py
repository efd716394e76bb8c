"""Owns what a demo needs before it can start: secrets in `.env`, a person, a provider key, a proxy key.

Everything made here is random and kept in files that only their owner may read; a second start finds it again.
Knows nothing of processes and servers.
"""

import base64
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from django.conf import settings

from accounts import keys
from accounts.models import Plan, ProxyKey, User
from vault import store
from vault.models import ApiKey
from vault.secret import Secret

EMAIL = "demo@example.com"
LABEL = "demo"


# --- Secrets -----------------------------------------------------------------------------------------


def _keyset() -> str:
    return f"1:{base64.b64encode(secrets.token_bytes(32)).decode()}"


def _text() -> str:
    return secrets.token_urlsafe(48)


# Each serves one purpose; the system checks refuse equal ones.
SECRETS: dict[str, Callable[[], str]] = {
    "SECRET_KEY": _text,
    "AIPROXY_JWT_KEY": _text,
    "AIPROXY_FINGERPRINT_KEY": _text,
    "AIPROXY_PEPPERS": _keyset,
    "AIPROXY_MASTER_KEYS": _keyset,
}


def environment_file() -> Path:
    return Path(os.environ.get("AIPROXY_ENV_FILE") or settings.BASE_DIR / ".env")


def complete_environment_file() -> list[str]:
    """Adds the secrets that neither the environment nor the file has, and plain HTTP; returns their names."""
    missing = [name for name in SECRETS if not os.environ.get(name) and not os.environ.get(f"{name}_FILE")]
    lines = [f"{name}={SECRETS[name]()}" for name in missing]
    if missing and not os.environ.get("AIPROXY_HTTPS"):
        missing.append("AIPROXY_HTTPS")
        lines.append("AIPROXY_HTTPS=false")
    if lines:
        path = environment_file()
        before = path.read_text() if path.exists() else "# Made by `make run`. Without it, stored keys are lost.\n"
        if not before.endswith("\n"):
            before += "\n"
        write_private(path, before + "\n".join(lines) + "\n")
    return missing


def write_private(path: Path, text: str) -> None:
    """Replaces the file at once, or leaves it as it was; only its owner may read it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file)  # before it has its name: after a power cut it would be there, and empty
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


# --- Rows --------------------------------------------------------------------------------------------


@dataclass
class Demo:
    """What the person in front of the demo is told. `password` is None once they have changed it."""

    email: str
    password: str | None
    proxy_key: str


def _path() -> Path:
    return Path(settings.AIPROXY_DATA_DIR) / "demo.json"


def _remembered() -> Demo | None:
    try:
        return Demo(**json.loads(_path().read_text()))
    except (OSError, ValueError, TypeError):
        return None


def prepare() -> Demo:
    """Makes what is missing of user, provider key and proxy key; keeps what is there."""
    remembered = _remembered()
    user, password = _user(remembered)
    _provider_key(user)
    demo = Demo(user.email, password, _proxy_key(user, remembered))
    if demo != remembered:
        write_private(_path(), json.dumps(asdict(demo), indent=2) + "\n")
    return demo


def _user(remembered: Demo | None) -> tuple[User, str | None]:
    user = User.objects.filter(email=EMAIL).first()
    if user is not None and remembered is not None:
        known = remembered.password is not None and user.check_password(remembered.password)
        return user, remembered.password if known else None
    password = (remembered and remembered.password) or secrets.token_urlsafe(12)
    if user is None:
        plan = Plan.objects.filter(code="pro").first() or Plan.objects.get(code="free")
        user = User.objects.create_superuser(EMAIL, password, name="Demo", plan=plan, email_verified=True)
    else:
        user.set_password(password)
        user.save(update_fields=["password"])
    return user, password


def _provider_key(user: User) -> None:
    """A random one: the demo provider takes any. One that does not open, or was refused elsewhere, is replaced."""
    secret = Secret("demo-" + secrets.token_urlsafe(24))
    row = ApiKey.objects.filter(user=user, provider="openai", label=LABEL).first()
    if row is None:
        store.add(user.id, "openai", LABEL, secret)
    elif not (row.is_valid and row.opens()):
        store.change(user.id, row.id, secret)


def _proxy_key(user: User, remembered: Demo | None) -> str:
    """The remembered one while it is live and verifies (the peppers may be others now), else a new one."""
    if remembered is not None:
        raw = remembered.proxy_key
        row = ProxyKey.objects.live().filter(user=user, key_prefix=f"{keys.PREFIX}{keys.parse(raw)}").first()
        if row is not None and keys.Peppers.from_settings().verify(bytes(row.verifier), row.key_id, user.id, raw):
            return raw
    ProxyKey.objects.live().filter(user=user, name=LABEL).revoke()
    _, raw = keys.issue(user, name=LABEL)
    return raw
