"""Owns the one type in which a provider key travels in clear; knows neither where it comes from nor where it goes."""

from typing import Final, NoReturn, final

_MASKED: Final = "Secret(***)"


@final
class Secret:
    """A provider key in clear, for as long as one call needs it.

    It shows itself in no log line, traceback, template or debug page, and cannot be pickled, copied or made JSON.
    Two secrets are equal only if they are the same object: equality of content would be an oracle.
    """

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        self.__value = value

    def reveal(self) -> str:
        """The key itself. Call it where the credential header is built, and keep no reference."""
        return self.__value

    # Django's templates call what they find; this tells them not to (`{{ secret.reveal }}` renders empty).
    reveal.alters_data = True  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return _MASKED

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied")
