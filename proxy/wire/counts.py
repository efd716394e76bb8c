"""Owns how usage is found in a plain answer; knows no provider's names for it."""

from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec

from proxy.wire import UNREADABLE

# What is no count is not counted: usage with a number outside of this is taken for none at all, and estimated.
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)]
_T = TypeVar("_T")


def decoded(decode: Callable[[bytes], _T], body: bytes, first: bytes = b'"usage"') -> _T | None:
    """A plain answer, or what is from `first` on of a long one whose beginning is gone; None if it is neither."""
    try:
        return decode(body)
    except UNREADABLE:
        pass
    try:
        return decode(b"{" + body[body.rfind(first) :])  # inside a text the quotes would be escaped
    except UNREADABLE:
        return None
