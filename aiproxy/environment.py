"""Owns how a setting is read from the environment: as NAME, or from the file that NAME_FILE names.

django-environ does the reading. What it would guess at (`tru` is False, `5m` is 5, a leading `$` is another variable)
is refused or taken literally here: a typing mistake must not change what the service does.
"""

import os
from pathlib import Path
from typing import Any

import environ
from django.core.exceptions import ImproperlyConfigured

_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0", ""}


class _Variables(environ.FileAwareEnv.ENVIRON.__class__):  # type: ignore[misc]
    """The process's variables; a file's final newline is no part of a secret, and `$` is no reference."""

    def __getitem__(self, name: str) -> str:
        try:
            value = str(super().__getitem__(name))
        except OSError as exc:
            raise ImproperlyConfigured(f"{name}_FILE cannot be read: {exc.strerror}.") from None
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
        if Path(file).is_file():
            cls.read_env(file)
        return cls()

    def bool(self, var: str, default: bool = False) -> bool:
        text = self.str(var, "").lower()
        if not text:
            return default
        if text not in _TRUE | _FALSE:
            raise ImproperlyConfigured(f"{var} is neither true nor false.")
        return text in _TRUE

    def int(self, var: str, default: int) -> int:
        return int(self._number(var, int, default))

    def float(self, var: str, default: float) -> float:
        return float(self._number(var, float, default))

    def list(self, var: str) -> list[str]:
        """The entries between commas, without the blanks around them."""
        return [entry.strip() for entry in self.str(var, "").split(",") if entry.strip()]

    def _number(self, var: str, cast: Any, default: Any) -> Any:
        text = self.str(var, "")
        if not text:
            return default
        try:
            number = cast(text)
        except ValueError:
            raise ImproperlyConfigured(f"{var} is not a number (no unit follows it).") from None
        if not 0 <= number < float("inf"):
            raise ImproperlyConfigured(f"{var} must be 0 or more.")
        return number
