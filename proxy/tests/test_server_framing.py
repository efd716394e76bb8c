"""What may not be said in HTTP/1.1, and that it makes no difference how the bytes are cut."""

import json

import pytest

from proxy.framing import ChunkedEnd, Refused, check_fields, parse_request_line
from proxy.tests.raw_http import RawServer

POST = b"POST /echo HTTP/1.1\r\nHost: a\r\n"


async def echo(scope, receive, send):
    body, more = b"", True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    fields = [(name.decode(), value.decode("latin-1")) for name, value in scope["headers"]]
    told = {"method": scope["method"], "path": scope["path"], "query": scope["query_string"].decode()}
    told |= {"names": [name for name, _ in fields], "length": dict(fields).get("content-length")}
    data = json.dumps({**told, "body": body.decode("latin-1")}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(data))]})
    await send({"type": "http.response.body", "body": data})


@pytest.fixture(scope="module")
def server():
    server = RawServer(echo, header_timeout=1, tick=0.02)
    yield server
    server.stop()


REFUSED = {
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "empty host": b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    "host with a path": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "host with a user": b"GET / HTTP/1.1\r\nHost: b@a\r\n\r\n",
    "two hosts in HTTP/1.0": b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
    "other absolute host": b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "bare LF everywhere": b"GET / HTTP/1.1\nHost: a\n\n",
    "bare LF in a field": b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    "bare CR in a field": b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
    "bare LF first": b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "bare CR first": b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "bare LF after an empty line": b"\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "folded field": b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
    "folded upgrade": b"GET / HTTP/1.1\r\nUpgrade: h2c\r\n x\r\nConnection: upgrade\r\nHost: a\r\n\r\n",
    "space before colon": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "NUL in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
    "nameless field": b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
    "length and chunked": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    "chunked and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
    "two lengths": POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "the same length twice": POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "list of lengths": POST + b"Content-Length: 3, 3\r\n\r\nabc",
    "signed length": POST + b"Content-Length: +3\r\n\r\nabc",
    "negative length": POST + b"Content-Length: -3\r\n\r\nabc",
    "hexadecimal length": POST + b"Content-Length: 0x3\r\n\r\nabc",
    "endless length": POST + b"Content-Length: 99999999999999999999\r\n\r\nabc",
    "chunked, identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n",
    "gzip, chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "two codings": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    "identity": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n",
    "chunked in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    "tab as space": b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "lower-case method": b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    "unknown method": b"FROB / HTTP/1.1\r\nHost: a\r\n\r\n",
    "fragment": b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n",
    "raw UTF-8": b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
    "no slash": b"GET a HTTP/1.1\r\nHost: a\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "forward proxying": b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
    "CONNECT to a path": b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "chunk size with a sign": POST + b"Transfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n",
    "chunk size with a prefix": POST + b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
    "chunk size ends with LF": POST + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
    "chunk longer than its size": POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
    "chunk extension with LF": POST + b"Transfer-Encoding: chunked\r\n\r\n3;a=\nb\r\nabc\r\n0\r\n\r\n",
    "huge chunk size": POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    "endless chunk extension": POST + b"Transfer-Encoding: chunked\r\n\r\n3;" + b"a" * 2000,
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_it_refuses_what_could_be_read_in_two_ways_and_closes(server, data):
    with server.client() as client:
        answer = client.send(data).answer()
        assert answer.status == 400
        assert set(json.loads(answer.body)["error"]) == {"message", "type", "param", "code"}
        assert answer.headers["connection"] == "close"
        assert client.is_closed()


@pytest.mark.parametrize("name", ["two hosts", "chunked, identity", "length and chunked"])
def test_it_refuses_the_same_when_every_byte_comes_alone(server, name):
    with server.client() as client:
        for byte in REFUSED[name]:
            client.send(bytes([byte]))
        assert client.answer().status == 400
        assert client.is_closed()


def test_it_speaks_only_http_1(server):
    assert server.ask(b"GET / HTTP/2.0\r\nHost: a\r\n\r\n").status == 505
    assert server.ask(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").status == 505


def test_it_refuses_a_large_head(server):
    answer = server.ask(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000 + b"\r\n\r\n")
    assert answer.status == 431
    assert json.loads(answer.body)["error"]["code"] == "request_head_too_large"


def test_it_refuses_a_large_head_before_its_end(server):
    assert server.ask(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000).status == 431


def test_it_counts_fields(server):
    head = b"GET / HTTP/1.1\r\nHost: a\r\n"
    assert server.ask(head + b"X: 1\r\n" * 99 + b"\r\n").status == 200
    assert server.ask(head + b"X: 1\r\n" * 100 + b"\r\n").status == 431
    assert server.ask(head + b"X: 1\r\n" * 10_000 + b"\r\n").status == 431


def test_it_refuses_a_long_target(server):
    assert server.ask(b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n").status == 414
    assert server.ask(b"GET /" + b"a" * 9_000).status == 414


def test_it_refuses_an_unknown_expectation(server):
    assert server.ask(POST + b"Expect: miracles\r\nContent-Length: 1\r\n\r\na").status == 417


def test_it_reads_a_request_at_every_split(server):
    head = b"\r\nPOST /a%20b?c=d HTTP/1.1\r\nHost: a:80\r\n"
    data = head + b"Transfer-Encoding: Chunked\r\n\r\n3;x=y\r\nabc\r\n0A\r\n0123456789\r\n0\r\nT: u\r\n\r\n"
    with server.client() as client:
        for split in range(1, len(data)):
            client.send(data[:split])
            client.send(data[split:])
            told = json.loads(client.answer().body)
            assert told["body"] == "abc0123456789"
            assert told["names"] == ["host", "transfer-encoding"]
            assert (told["path"], told["query"]) == ("/a b", "c=d")


AGAIN = b"POST /again HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\nX: y\r\n\r\n"


def test_it_reads_a_head_like_the_one_before_at_every_split(server):
    data = AGAIN % b"11" + b"hello again"
    with server.client() as client:
        client.send(AGAIN % b"5" + b"first").answer()
        for split in range(1, len(data)):
            client.send(data[:split])
            client.send(data[split:])
            told = json.loads(client.answer().body)
            assert (told["body"], told["names"]) == ("hello again", ["host", "content-length", "x"])


@pytest.fixture(scope="module")
def plain_server():
    server = RawServer(echo, eager=False)
    yield server
    server.stop()


def test_it_tells_an_application_that_reads_the_field_each_requests_own_length(plain_server):
    with plain_server.client() as client:
        for body in (b"", b"abc", b""):
            told = json.loads(client.send(AGAIN % str(len(body)).encode() + body).answer().body)
            assert (told["length"], told["body"]) == (str(len(body)), body.decode())


@pytest.mark.parametrize("length", [b"", b"5x", b"+5", b"5 5", b"0x5", b"5, 5", b"\xb2", b"99999999999999999999"])
def test_it_refuses_a_head_that_is_like_the_one_before_but_for_its_length(server, length):
    with server.client() as client:
        client.send(AGAIN % b"5" + b"first").answer()
        assert client.send(AGAIN % length + b"5 5, 5").answer().status == 400
        assert client.is_closed()


@pytest.mark.parametrize(
    "next_head",
    [
        AGAIN.replace(b"again", b"other", 1) % b"3",
        AGAIN.replace(b"X: y", b"X: z") % b"3",
        AGAIN.replace(b"X: y\r\n", b"") % b"3",
        AGAIN.replace(b"X: y", b"X: y\r\nX: y") % b"3",
    ],
)
def test_it_takes_no_head_for_the_one_before_that_says_something_else(server, next_head):
    with server.client() as client:
        client.send(AGAIN % b"5" + b"first").answer()
        told = json.loads(client.send(next_head + b"abc").answer().body)
        assert told["body"] == "abc"
        assert (told["path"], told["names"]) == (
            next_head.split()[1].decode(),
            [line.partition(b":")[0].decode().lower() for line in next_head.split(b"\r\n")[1:-2]],
        )


def test_it_accepts_an_absolute_target_with_the_same_host(server):
    told = json.loads(server.ask(b"GET http://A/x?y HTTP/1.1\r\nHost: a\r\n\r\n").body)
    assert (told["path"], told["query"]) == ("/x", "y")


@pytest.mark.parametrize("offer", [b"h2c", b"websocket"])
@pytest.mark.parametrize(
    "body", [b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"]
)
def test_it_ignores_an_upgrade_and_keeps_the_body(server, offer, body):
    with server.client() as client:
        for _ in range(2):
            client.send(POST + b"Connection: Upgrade, HTTP2-Settings\r\nuPgrade: " + offer + b"\r\n" + body)
            answer = client.answer()
            assert answer.status == 200
            assert json.loads(answer.body)["body"] == "abc"


def test_it_ignores_an_upgrade_without_a_body(server):
    with server.client() as client:
        client.send(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert json.loads(client.answer().body)["path"] == "/x"
        client.send(b"GET /y HTTP/1.1\r\nHost: a\r\n\r\n")
        assert json.loads(client.answer().body)["path"] == "/y"


@pytest.mark.parametrize(
    "head", [b"HTTP/1.0\r\nConnection: upgrade", b"HTTP/1.1\r\nHost: a\r\nConnection: upgrade, close"]
)
def test_it_ignores_an_upgrade_on_a_connection_that_is_to_close(server, head):
    with server.client() as client:
        client.send(b"POST /x " + head + b"\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc")
        assert json.loads(client.answer().body)["body"] == "abc"
        assert client.is_closed()


@pytest.mark.parametrize("fields", [b"", b"Connection: keep-alive\r\n"])
def test_it_serves_an_http_1_0_client_and_closes(server, fields):
    with server.client() as client:
        answer = client.send(b"GET / HTTP/1.0\r\n" + fields + b"\r\n").answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert client.is_closed()


def test_it_finds_the_end_of_a_chunked_body_at_every_split():
    data = b"3\r\nabc\r\n0\r\nT: u\r\n\r\nGET"
    for split in range(len(data)):
        end = ChunkedEnd()
        found = end.scan(data[:split], 0)
        assert data[found if found >= 0 else split + end.scan(data[split:], 0) :] == b"GET"


def test_it_limits_trailers():
    end = ChunkedEnd()
    with pytest.raises(Refused) as refused:
        end.scan(b"0\r\n" + b"T: u\r\n" * 2_000, 0)
    assert refused.value.status == 431


def test_it_reads_the_body_length_from_one_field_only():
    line = parse_request_line(b"POST / HTTP/1.1", 100)
    assert check_fields(line, [(b"host", b"[::1]:80"), (b"content-length", b"12 ")]) == (12, False)
