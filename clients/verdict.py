"""Owns what is right: the client's answer, what the provider was sent, and the row that the service wrote. Pure."""

import json
import math
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from clients.matrix import Client, Told, who
from clients.mocks import TALK, Mock


def problems(client: Client, told: Told, *, mock: Mock, bodies: list[str], rows: list[dict[str, Any]]) -> list[str]:
    """Everything that is wrong with one case; nothing when it is as it should be."""
    got = told.got
    own = [body for body in bodies if who(client, told.provider, told.case) in body]
    if told.case == "error":
        return [*_refused(client, got), *_rows(client, told, rows, outcome="provider_error")]
    if "raised" in got:
        return [f"{got['raised']} {got['status'] or ''}: {str(got['message'])[:300]}"]
    found = [*_CHECKS[told.case](got, own, mock)]
    if not own:
        found.append("the provider was not sent the prompt")
    return [*found, *_rows(client, told, rows, outcome="ok")]


def _text(got: dict[str, Any], bodies: list[str], mock: Mock) -> Iterable[str]:
    if not str(got.get("text") or "").startswith("Hello"):
        yield f"the answer is {got.get('text')!r}"


def _streamed(got: dict[str, Any], bodies: list[str], mock: Mock) -> Iterable[str]:
    yield from _text(got, bodies, mock)
    if got.get("pieces", 2) < 2:
        yield f"the stream came in {got['pieces']} piece(s)"


def _tools(got: dict[str, Any], bodies: list[str], mock: Mock) -> Iterable[str]:
    yield from _text(got, bodies, mock)
    if got["calls"] != [TALK["tool"]["name"]]:
        yield f"the calls are {got['calls']}"
    if not any(TALK["tool_result"] in body for body in bodies):
        yield "the tool's result did not reach the provider"


def _image(got: dict[str, Any], bodies: list[str], mock: Mock) -> Iterable[str]:
    yield from _text(got, bodies, mock)
    if mock.keeps_images and not any(TALK["image"] in body for body in bodies):
        yield "the image did not reach the provider"


def _schema(got: dict[str, Any], bodies: list[str], mock: Mock) -> Iterable[str]:
    try:
        made = got["object"] if "object" in got else json.loads(got["json"])
    except ValueError:
        made = {}
    if {name: type(value) for name, value in made.items()} != {"city": str, "degrees": int}:
        yield f"the object is {got}"


_CHECKS: dict[str, Callable[[dict[str, Any], list[str], Mock], Iterable[str]]] = {
    "plain": _text,
    "streamed": _streamed,
    "tools": _tools,
    "image": _image,
    "schema": _schema,
}


def _refused(client: Client, got: dict[str, Any]) -> Iterable[str]:
    if "raised" not in got:
        yield f"an error of the provider's became the answer {got}"
    elif got["status"] != 429 or (client.shows_message and "Slow down." not in got["message"]):
        yield f"the error is {got}"


def rows_of(told: Told, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a client's rows those that were begun while the case ran; their times have milliseconds."""
    begun = ((datetime.fromisoformat(row["created_at"]).timestamp(), row) for row in rows)
    return [row for at, row in begun if math.floor(told.started * 1000) / 1000 <= at <= told.ended]


def _rows(client: Client, told: Told, rows: list[dict[str, Any]], *, outcome: str) -> Iterable[str]:
    own = rows_of(told, rows)
    if not own:
        yield "no row in /usage/requests"
    model = client.model(told.provider, told.case)
    for row in own:
        expected = {"provider": told.provider, "model": model, "endpoint": client.endpoint, "outcome": outcome}
        expected |= {"streamed": True} if told.case == "streamed" else {}
        yield from (f"the row's {name} is {row[name]!r}" for name in expected if row[name] != expected[name])
        counted = row["usage_source"] == "provider" and row["tokens_input"] and row["tokens_output"]
        if outcome == "ok" and not counted:
            yield f"the row's tokens are {row['tokens_input']} + {row['tokens_output']} ({row['usage_source']})"
    if "tokens" in told.got and told.got["tokens"] != sum(row["tokens_total"] for row in own):
        yield f"the client counts {told.got['tokens']} tokens, its row {[row['tokens_total'] for row in own]}"
