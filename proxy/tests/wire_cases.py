"""Runs wire cases: one directory each, whose file names say what goes in and what must come out.

request.json  sent.json              a client's body, and what the provider is sent (model and call are the client's)
request.json  refused.json           {"param", "code"} of the 400
answer.json   expected.json          a provider's plain answer, and the client's
stream.txt    expected.txt           a provider's event stream, and the client's, at every byte split
stream.txt    failure.json           {"status", "code", "passed": how many events came before it}
error.json    mapped.json            {"status", "body"} of the provider, and {"status", "code", …} of our error
call.json                            beside any of them: fields of the Call
"""

import json
import re
from pathlib import Path

import pytest

from proxy.errors import BadRequest
from proxy.wire import Call, Wire

CREATED = re.compile(rb'"created":\d+')
KINDS = {
    frozenset({"request.json", "sent.json"}): "sent",
    frozenset({"request.json", "refused.json"}): "refused",
    frozenset({"answer.json", "expected.json"}): "answer",
    frozenset({"stream.txt", "expected.txt"}): "stream",
    frozenset({"stream.txt", "failure.json"}): "failure",
    frozenset({"error.json", "mapped.json"}): "error",
}
ROOT = Path(__file__).parent / "wire"


def cases(provider: str) -> list[Path]:
    return sorted(path for path in (ROOT / provider).iterdir() if path.name != "__pycache__")


def check(wire: Wire, case: Path, *, line_end: bytes = b"\n") -> None:
    """Fails for a directory that is no case, or holds a file that no case has."""
    names = frozenset(path.name for path in case.iterdir()) - {"call.json"}
    assert names in KINDS, f"{case.name} is not a case: {sorted(names)}"
    fields = json.loads(_read(case, "call.json")) if (case / "call.json").exists() else {}
    call = Call(**{"model": "asked-for", "include_usage": True, **fields})
    globals()[f"_check_{KINDS[names]}"](wire, case, call, line_end)


def feed(wire: Wire, call: Call, parts):
    decoder = wire.decoder(call)
    out = b"".join(decoder.feed(part) for part in parts if not decoder.complete and decoder.failure is None)
    if not decoder.complete and decoder.failure is None:
        decoder.flush()
    return out, decoder


def _read(case: Path, name: str) -> bytes:
    return (case / name).read_bytes()


def _encode(wire: Wire, case: Path, call: Call) -> bytes:
    body = _read(case, "request.json")
    request = json.loads(body)
    call.model, call.stream = request["model"], bool(request.get("stream"))
    call.max_output = request.get("max_completion_tokens", request.get("max_tokens"))
    call.include_usage = bool((request.get("stream_options") or {}).get("include_usage"))
    return wire.encode(body, call, call.model, None)


def _check_sent(wire, case, call, line_end):
    assert json.loads(_encode(wire, case, call)) == json.loads(_read(case, "sent.json"))


def _check_refused(wire, case, call, line_end):
    with pytest.raises(BadRequest) as caught:
        _encode(wire, case, call)
    assert {"param": caught.value.param, "code": caught.value.code} == json.loads(_read(case, "refused.json"))


def _check_answer(wire, case, call, line_end):
    expected = json.loads(_read(case, "expected.json"))
    found, usage = wire.answer(_read(case, "answer.json"), call)
    assert json.loads(CREATED.sub(b'"created":0', found)) == expected
    if usage is not None:
        assert usage.total == usage.input + usage.output == expected["usage"]["total_tokens"]


def _splits(stream: bytes):
    return ((stream[:cut], stream[cut:]) for cut in range(len(stream) + 1))


def _check_stream(wire, case, call, line_end):
    expected = _read(case, "expected.txt")
    for parts in _splits(_read(case, "stream.txt").replace(b"\n", line_end)):
        out, decoder = feed(wire, call, parts)
        assert (decoder.complete, decoder.failure) == (True, None)
        assert CREATED.sub(b'"created":0', out + decoder.final) == expected


def _check_failure(wire, case, call, line_end):
    expected = json.loads(_read(case, "failure.json"))
    for parts in _splits(_read(case, "stream.txt").replace(b"\n", line_end)):
        out, decoder = feed(wire, call, parts)
        assert not decoder.complete and b"[DONE]" not in out
        found = decoder.failure
        said = {"status": found.status, "code": found.code} if found else {"status": None, "code": None}
        assert {**said, "passed": out.count(b"data: ")} == expected


def _check_error(wire, case, call, line_end):
    given, expected = json.loads(_read(case, "error.json")), json.loads(_read(case, "mapped.json"))
    body = given["body"]
    error = wire.error(given["status"], body.encode() if isinstance(body, str) else json.dumps(body).encode())
    assert {name: getattr(error, name) for name in expected} == expected
