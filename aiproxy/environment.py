"""Owns how a setting is read from the environment: as NAME, or from the file that NAME_FILE names.

django-environ does the reading. What it would guess at (`tru` is False, `5m` is 5, a leading `$` is another variable)
is refused or taken literally here: a typing mistake must not change what the service does.
"""

import os
import re
import warnings
from pathlib import Path
from typing import Any

import environ
from django.core.exceptions import ImproperlyConfigured

from accounts.addresses import split_url

_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0", ""}
_SETTING = re.compile(r"(export )?[A-Za-z_0-9]+=")
_DATABASES = ("django.db.backends.postgresql", "django.db.backends.sqlite3")
INFINITE = float("inf")


class _Variables(environ.FileAwareEnv.ENVIRON.__class__):  # type: ignore[misc]
    """The process's variables; a file's final newline is no part of a secret, and `$` is no reference."""

    def __getitem__(self, name: str) -> str:
        try:
            value = str(super().__getitem__(name))
        except OSError as exc:
            raise ImproperlyConfigured(f"{name}_FILE cannot be read: {exc.strerror}.") from None
        except UnicodeDecodeError:
            raise ImproperlyConfigured(f"{name}_FILE is not UTF-8.") from None
        return value.strip().replace("$", r"\$")


class Environment(environ.FileAwareEnv):  # type: ignore[misc]
    """Reads one setting a call; ImproperlyConfigured names the setting and the expected form, never the value."""

    ENVIRON = _Variables()

    def __init__(self) -> None:
        super().__init__()
        self.escape_proxy = True

    @classmethod
    def read(cls, file: str | os.PathLike[str]) -> "Environment":
        """Fills what the process's environment leaves out from a `.env` file, if there is one."""
        given = set(os.environ)
        try:
            if Path(file).is_file():
                cls._refuse_lines(Path(file).read_text())  # read_env passes over them, and a file that may not be read
                cls.read_env(file)
        except OSError as exc:
            raise ImproperlyConfigured(f"AIPROXY_ENV_FILE cannot be read: {exc.strerror}.") from None
        except UnicodeDecodeError:
            raise ImproperlyConfigured("AIPROXY_ENV_FILE is not UTF-8.") from None
        for name in set(os.environ) - given:
            if name.removesuffix("_FILE") in given:  # NAME_FILE would go before the environment's NAME
                del os.environ[name]
        return cls()

    @staticmethod
    def _refuse_lines(text: str) -> None:
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip() and not line.lstrip().startswith("#") and not _SETTING.match(line):
                raise ImproperlyConfigured(f"AIPROXY_ENV_FILE, line {number}: neither NAME=value nor a comment.")

    def bool(self, var: str, default: bool = False) -> bool:
        text = self.str(var, "").lower()
        if not text:
            return default
        if text not in _TRUE | _FALSE:
            raise ImproperlyConfigured(f"{var} is neither true nor false.")
        return text in _TRUE

    def int(self, var: str, default: int, *, least: int = 0, most: float = INFINITE) -> int:
        return int(self._number(var, int, default, (least, most)))

    def float(self, var: str, default: float, *, least: float = 0, most: float = INFINITE) -> float:
        return float(self._number(var, float, default, (least, most)))

    def rate(self, var: str, default: str) -> str:
        text = self.str(var, "")
        if text and not re.fullmatch(r"[0-9]{1,9}/(s|sec|second|m|min|minute|h|hour|d|day)", text):
            raise ImproperlyConfigured(f"{var} is no rate, as in 20/hour: a number, and second, minute, hour or day.")
        return text or default

    def database(self, var: str, url: str) -> dict[str, Any]:
        try:
            with warnings.catch_warnings(action="ignore"):  # they would show the password
                found: dict[str, Any] = self.db_url_config(url)
        except (ValueError, ImproperlyConfigured):
            found = {}
        named = found.get("NAME") or "service" in found.get("OPTIONS", {})
        # Port 0 would be taken for the default one. (`split_url` cannot read every address that is good here.)
        if found.get("ENGINE") not in _DATABASES or not named or re.search(r"^[^/]*//[^/]*:0+([/?]|$)", url):
            raise ImproperlyConfigured(
                f"{var} is no database's address, as in postgres://user:password@host:5432/name."
            )
        return found

    def mail(self, var: str, url: str) -> dict[str, Any]:
        try:
            split_url(url)
            found: dict[str, Any] = self.email_url_config(url)
        except (ValueError, ImproperlyConfigured):
            hint = "as in smtp+tls://user:password@host:587"
            raise ImproperlyConfigured(f"{var} is no mail server's address, {hint}.") from None
        return found

    def list(self, var: str) -> list[str]:
        """The entries between commas, without the blanks around them."""
        return [entry.strip() for entry in self.str(var, "").split(",") if entry.strip()]

    def _number(self, var: str, cast: Any, default: Any, bounds: tuple[Any, Any]) -> Any:
        text = self.str(var, "")
        if not text:
            return default
        try:
            number = cast(text)
        except ValueError:
            raise ImproperlyConfigured(f"{var} is not a number (no unit follows it).") from None
        least, most = bounds
        if not least <= number < INFINITE:
            raise ImproperlyConfigured(f"{var} must be {least:g} or more.")
        if number > most:
            raise ImproperlyConfigured(f"{var} must be {most:,} at the most.")
        return number

    def str(self, var: str, default: str) -> str:
        """What is set to nothing is not set. The last method: its name is a type above."""
        return super().str(var, default) or default
