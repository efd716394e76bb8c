"""Bodies without end, bombs, and what real clients see of a refusal, against the running service."""

import contextlib
import functools
import gzip
import http.client
import itertools
import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from proxy.tests.provider import answer, plain

GIB = 1 << 30
MIB = 1 << 20
PIECE = bytes(MIB)
# What the kernel may hold of one connection, both ways (tcp(7)): taken by nobody yet.
BUFFERS = sum(int(Path(f"/proc/sys/net/ipv4/{name}").read_text().split()[2]) for name in ("tcp_rmem", "tcp_wmem"))
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
DATA_PLANE = ["/v1/chat/completions", "/v1/embeddings", "/v1/nothing"]
CONTROL_PLANE = ["/auth/signup", "/auth/login", "/api-keys", "/admin/login/", "/health", "/nothing"]


@functools.cache
def bomb() -> bytes:
    """Of 64 MiB, in 64 KiB."""
    return gzip.compress(bytes(64 * MIB), compresslevel=1)


def upload(exposed, head: bytes, *, chunked: bool, size: int = GIB):
    """Sends until the service stops taking, and reads the answer; how much of it the service's side took."""
    piece = b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if chunked else PIECE
    taken = 0
    with exposed.client() as client:
        with contextlib.suppress(OSError):
            client.send(head)
            while taken < size:
                client.send(piece)
                taken += MIB
        return client.answer(), taken


FRAMINGS = {False: {"content_length": GIB}, True: {"transfer_encoding": "chunked"}}


def uploads(exposed, paths, key=None):
    """A gibibyte to every path in both framings, all at once: status, bytes taken, path and framing of each."""
    cases = [(path, chunked) for path in paths for chunked in FRAMINGS]

    def one(path: str, chunked: bool):
        answer, taken = upload(exposed, exposed.head(path=path, key=key, **FRAMINGS[chunked]), chunked=chunked)
        return answer.status, taken, path, chunked

    with ThreadPoolExecutor(len(cases)) as threads:
        return list(threads.map(one, *zip(*cases, strict=True)))


def test_it_takes_no_gibibytes_from_strangers(exposed):
    before = exposed.forget_peak()
    for status, taken, path, chunked in uploads(exposed, [*DATA_PLANE, *CONTROL_PLANE], key=""):
        assert status == (401 if path in DATA_PLANE else 413), (path, chunked)
        assert taken <= BUFFERS + 4 * MIB  # with what is read to let the answer through
    assert exposed.memory("VmHWM") - before < 48 * MIB  # of eighteen at once
    assert exposed.spooled() == []


def test_it_takes_no_more_than_its_cap_from_a_user(exposed):
    before = exposed.forget_peak()
    for status, taken, _, chunked in uploads(exposed, DATA_PLANE[:2]):
        assert status == 413
        assert taken <= BUFFERS + (36 if chunked else 4) * MIB
    assert exposed.memory("VmHWM") - before < 2 * 48 * MIB
    assert (exposed.provider.requests, exposed.spooled()) == ([], [])
    assert exposed.is_well()


def test_it_passes_uploads_on_without_holding_them(exposed):
    field = b"--B\r\nContent-Disposition: form-data; name="
    begun = field + b'"model"\r\n\r\nwhisper-1\r\n' + field + b'"file"; filename="a"\r\n\r\n'
    fields = {"content_type": "multipart/form-data; boundary=B", "content_length": len(begun) + 20 * MIB + 9}
    head = exposed.head(path="/v1/audio/transcriptions", **fields)

    def one(_) -> int:
        with exposed.client() as client:
            for part in (head + begun, *[PIECE] * 20, b"\r\n--B--\r\n"):
                client.send(part)
            return client.answer().status

    exposed.provider.inner.keeps_bodies = False
    before = exposed.forget_peak()
    with ThreadPoolExecutor(5) as threads:
        assert list(threads.map(one, range(5))) == [200] * 5
    assert exposed.memory("VmHWM") - before < 20 * MIB  # of a hundred
    assert exposed.spooled() == []


def by_httpx(exposed, path, size):
    return httpx2.post(exposed.service.url + path, content=bytes(size), trust_env=False, timeout=10).status_code


def by_http_client(exposed, path, size):
    """It reads nothing while it writes: of what is too large to be passed over it first hears that the line broke."""
    connection = http.client.HTTPConnection("127.0.0.1", exposed.port, timeout=10)
    with contextlib.closing(connection):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError) if size > MIB else contextlib.nullcontext():
            connection.request("POST", path, bytes(size))
        return connection.getresponse().status


def test_pythons_clients_see_why_an_upload_is_refused(exposed):
    cases = list(
        itertools.product((by_httpx, by_http_client), ("/v1/chat/completions", "/api-keys"), (900_000, 32 * MIB))
    )
    with ThreadPoolExecutor(len(cases)) as threads:
        seen = list(threads.map(lambda case: case[0](exposed, *case[1:]), cases))
    for (_, path, size), status in zip(cases, seen, strict=True):
        assert status == (401 if path.startswith("/v1") or size < MIB else 413)


FETCH = """
const [url, size, how] = process.argv.slice(1);
let left = Number(size);
const pull = (stream) => {
  const part = new Uint8Array(Math.min(65536, left));
  left -= part.length;
  part.length ? stream.enqueue(part) : stream.close();
};
const body = how === "streamed" ? new ReadableStream({ pull }) : Buffer.alloc(left);
const answer = await fetch(url, { method: "POST", body, duplex: "half" });
console.log(answer.status, (await answer.json()).error.code);
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
@pytest.mark.parametrize("how", ["whole", "streamed"])
def test_nodes_fetch_sees_why_an_upload_is_refused(exposed, how):
    command = ["node", "--input-type=module", "-e", FETCH, f"{exposed.service.url}/v1/chat/completions"]
    for size in (900_000, 32 * MIB):
        seen = subprocess.run([*command, str(size), how], capture_output=True, text=True, timeout=30)
        assert seen.stdout == "401 missing_api_key\n", seen.stderr


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "GZIP", "x-gzip", "identity, gzip"])
def test_it_unpacks_no_request(exposed, coding):
    before = exposed.forget_peak()
    refusal, _ = upload(exposed, exposed.post(bomb(), content_encoding=coding), chunked=False, size=0)
    assert (refusal.status, json.loads(refusal.body)["error"]["code"]) == (400, "content_encoding")
    assert exposed.memory("VmHWM") - before < 16 * MIB
    assert exposed.provider.requests == []


def test_it_unpacks_no_request_to_the_control_plane(exposed):
    before = exposed.forget_peak()
    fields = {"content_encoding": "gzip", "content_type": "application/json"}
    with exposed.client() as client:
        assert client.send(exposed.post(bomb(), path="/auth/login", key="", **fields)).answer().status in {400, 415}
    assert exposed.memory("VmHWM") - before < 16 * MIB


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "zstd", "gzip, identity", "x"])
@pytest.mark.parametrize("stream", [False, True])
def test_it_unpacks_no_answer(exposed, coding, stream):
    before = exposed.forget_peak()
    kind = "text/event-stream" if stream else "application/json"
    exposed.provider.play(answer(200, bomb(), f"content-encoding: {coding}", f"content-type: {kind}"))
    reply = exposed.person.chat(stream=stream)
    assert (reply.status, reply.json()["error"]["code"]) == (502, "provider_broken")
    assert exposed.provider.requests[0].headers["accept-encoding"] == "identity"
    assert exposed.memory("VmHWM") - before < 16 * MIB


DEEP = b"[" * 100_000 + b"]" * 100_000
NESTED = {
    "messages": b'{"model":"gpt-4o","messages":%b}' % DEEP,
    "other field": b'{"model":"gpt-4o","messages":[],"x":%b}' % DEEP,
    "media": b'{"model":"gpt-4o","messages":[{"type":"image_url"},%b]}' % DEEP,
    "twice": b'{"model":"gpt-4o","model":"gpt-4o","messages":%b}' % DEEP,
    "everything": DEEP,
    "objects": b'{"messages":' * 100_000,
    "never closed": b"[" * 200_000,
    "model": b'{"model":%b,"messages":[]}' % DEEP,
    "stream options": b'{"model":"gpt-4o","messages":[],"stream_options":%b}' % DEEP,
}


@pytest.mark.parametrize("body", NESTED.values(), ids=NESTED.keys())
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
def test_it_refuses_a_body_without_a_bottom(exposed, body, path):
    with exposed.client() as client:
        refusal = client.send(exposed.post(body, path=path)).answer()
    assert (refusal.status, exposed.provider.requests) == (400, [])
    assert exposed.is_well()


@pytest.mark.parametrize("path", ["/auth/signup", "/auth/login", "/auth/refresh"])
@pytest.mark.parametrize("body", [DEEP, b'{"email":%b,"password":"x"}' % DEEP, b'{"a":' * 100_000])
def test_the_control_plane_refuses_a_body_without_a_bottom(exposed, body, path):
    head = exposed.head(path=path, key="", content_length=len(body), content_type="application/json")
    with exposed.client() as client:
        assert client.send(head + body).answer().status == 400
    assert exposed.is_well()


@pytest.mark.parametrize("status", [200, 400, 401])
@pytest.mark.parametrize("body", [DEEP, b'{"error":%b}' % DEEP, b'{"usage":%b,"choices":[]}' % DEEP])
def test_it_survives_an_answer_without_a_bottom(exposed, status, body):
    exposed.provider.play(answer(status, body))
    reply = exposed.person.chat()
    assert reply.status == {401: 424}.get(status, status)
    assert (reply.body == body) is (status == 200)
    assert exposed.is_well()


def test_it_holds_no_large_answer_in_memory_for_long(exposed):
    exposed.provider.play(answer(200, json.dumps(plain("x" * (64 * MIB))).encode()))
    before = exposed.forget_peak()
    reply = exposed.person.chat()
    assert len(reply.body) > 64 * MIB
    assert exposed.memory("VmHWM") - before < 32 * MIB
