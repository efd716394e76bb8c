"""Owns who is asking: the request under way, or the command that runs. Knows no model of ours."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest


@dataclass(frozen=True, slots=True)
class _Asked:
    request: HttpRequest
    request_id: str


_current: ContextVar[_Asked | None] = ContextVar("audit_origin", default=None)


@contextmanager
def asked_by(request: HttpRequest, request_id: str) -> Iterator[None]:
    """What is recorded inside was caused by this request; its user is looked at only then."""
    token = _current.set(_Asked(request, request_id))
    try:
        yield
    finally:
        _current.reset(token)


def columns(actor: Any = None) -> dict[str, Any]:
    """The columns of an event that say who and from where. `actor`: the user, where the request does not know yet."""
    asked = _current.get()
    if actor is None and asked is not None:
        actor = getattr(asked.request, "user", None)
    known = actor is not None and actor.is_authenticated
    return {
        "actor_id": actor.pk if known else None,
        "actor": actor.get_username() if known else "" if asked else _command(),
        "address": (asked.request.META.get("REMOTE_ADDR") or None) if asked else None,
        "request_id": asked.request_id if asked else "",
    }


def _command() -> str:
    """As in `manage.py shell`: arguments may hold what is nobody's business."""
    program = os.path.basename(sys.argv[0])
    return f"{program} {sys.argv[1]}"[:254] if program == "manage.py" and len(sys.argv) > 1 else program[:254]
