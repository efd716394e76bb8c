"""A connection's life: one request at a time, every time-out, and clients that stop reading, writing or waiting."""

import asyncio
import contextlib
import gc
import json
import queue
import resource
import subprocess
import sys
import threading
import weakref

import pytest

from proxy.cycle import cycle_of
from proxy.server import ClientGone
from proxy.server_limits import connection_cap
from proxy.tests.raw_http import RawClient, RawServer

GET = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /%b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"


class Stage:
    """An application that does what its path says, and tells the test what it met."""

    def __init__(self):
        self.told = queue.Queue()
        self.released = threading.Event()

    async def __call__(self, scope, receive, send):
        await getattr(self, scope["path"][1:])(scope, receive, send)

    async def answer(self, send, body=b"ok", status=200, headers=()):
        headers = [(b"content-length", b"%d" % len(body)), *headers]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def ok(self, scope, receive, send):
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                return await self.answer(send, b"%d" % len(body))
        self.told.put(message["type"])

    async def early(self, scope, receive, send):
        await self.answer(send, b"no", 401)

    async def ahead(self, scope, receive, send):
        self.told.put(len(cycle_of(receive)._protocol._pending))
        await self.answer(send)

    async def behind(self, scope, receive, send):
        """Answers when no more is read ahead."""
        while len(cycle_of(receive)._protocol._pending) <= 65_536:  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0)
        await self.answer(send)

    async def hold(self, scope, receive, send):
        self.told.put("held")
        await asyncio.to_thread(self.released.wait, 5)
        await self.answer(send, b"held")

    async def watch(self, scope, receive, send):
        await receive()
        self.told.put("watching")
        self.told.put((await receive())["type"])
        try:
            await self.answer(send)
        except ClientGone as gone:
            self.told.put(type(gone))
            raise

    async def late(self, scope, receive, send):
        """Reads when the whole body is here."""
        self.told.put("begun")
        while cycle_of(receive).more_body:  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0)
        await receive()
        self.told.put("watching")
        self.told.put((await receive())["type"])

    async def unread(self, scope, receive, send):
        cycle_of(receive).on_disconnect(lambda: self.told.put("left"))
        while not cycle_of(receive).flow.read_paused:  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0)
        self.told.put("paused")
        await asyncio.to_thread(self.released.wait, 5)

    async def flood(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        sent = 0
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x" * 16_384, "more_body": True})
                sent += 16_384
        except ClientGone:
            self.told.put(sent)
            raise

    async def upload(self, scope, receive, send):
        self.told.put("waiting")
        await asyncio.to_thread(self.released.wait, 5)
        await self.ok(scope, receive, send)

    async def cut(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})

    async def fail(self, scope, receive, send):
        raise RuntimeError("secret detail")

    async def silent(self, scope, receive, send):
        pass

    async def inject(self, scope, receive, send):
        await self.answer(send, headers=[(b"x", b"a\r\nset-cookie: b")])

    async def overlong(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        await send({"type": "http.response.body", "body": b"xy"})


class Theatre:
    """Servers by their limits, kept for the whole module, which play the stage of the test that runs."""

    def __init__(self, *, eager):
        self.stage = Stage()
        self.servers = {}
        self.eager = eager

    async def __call__(self, scope, receive, send):
        await self.stage(scope, receive, send)

    def serve(self, **limits):
        key = tuple(limits.items())
        if key not in self.servers:
            self.servers[key] = RawServer(self, eager=self.eager, **{"tick": 0.02, **limits})
        return self.servers[key]


@pytest.fixture(scope="module", params=[True, False], ids=["eager", "task"])
def theatre(request):
    theatre = Theatre(eager=request.param)
    yield theatre
    for server in theatre.servers.values():
        server.stop()


@pytest.fixture
def stage(theatre):
    theatre.stage = Stage()
    yield theatre.stage
    theatre.stage.released.set()


@pytest.fixture
def serve(theatre, stage):
    return theatre.serve


def test_it_says_the_date_but_not_what_serves(serve):
    answer = serve().ask(GET % b"ok")
    assert "date" in answer.headers
    assert "server" not in answer.headers


def test_it_serves_pipelined_requests_one_after_the_other(serve, stage):
    with serve().client() as client:
        client.send(GET % b"hold" + POST % (b"ok", 3) + b"abc" + GET % b"early")
        assert stage.told.get(timeout=5) == "held"
        assert stage.told.empty()
        stage.released.set()
        assert [client.answer().body for _ in range(3)] == [b"held", b"3", b"no"]


def test_it_answers_thousands_of_pipelined_requests_without_going_deeper(serve):
    with serve().client() as client:
        client.send(GET % b"early" * 3_000)
        assert {client.answer().status for _ in range(3_000)} == {401}


def test_it_takes_apart_pipelined_requests_that_come_in_pieces(serve):
    requests = GET % b"early" * 1_000
    with serve().client() as client:
        for start in range(0, len(requests), 100):
            client.send(requests[start : start + 100])
        assert {client.answer().status for _ in range(1_000)} == {401}


def test_it_reads_no_further_ahead_than_a_head_and_one_read(serve, stage):
    with serve().client() as client:
        sending = threading.Thread(target=client.send, args=(GET % b"ahead" * 12_000,))
        sending.start()
        assert {client.answer().status for _ in range(12_000)} == {200}
        sending.join()
    assert max(stage.told.get_nowait() for _ in range(12_000)) <= 65_536 + 262_144


def test_it_starts_no_second_request_while_one_runs(serve, stage):
    server = serve()
    with server.client() as client:
        client.send(GET % b"hold" + GET % b"hold")
        stage.told.get(timeout=5)
        assert server.ask(GET % b"early").status == 401  # a turn of the loop later
        assert stage.told.empty()


def test_it_serves_on_after_a_trailer_that_speaks_of_the_connection(serve):
    chunked = b"POST /ok HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nConnection: close\r\n\r\n"
    with serve().client() as client:
        client.send(chunked + GET % b"ok" + chunked)
        assert [client.answer().status for _ in range(3)] == [200] * 3


def test_it_drops_pipelined_requests_after_connection_close(serve):
    with serve().client() as client:
        client.send(b"GET /ok HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + GET % b"early")
        answer = client.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert client.is_closed()


def test_it_sees_a_client_leave_that_has_pipelined(serve, stage):
    with serve().client() as client:
        client.send(GET % b"watch" + GET % b"ok")
        assert stage.told.get(timeout=5) == "watching"
    assert stage.told.get(timeout=5) == "http.disconnect"


def test_it_sees_a_client_leave_whose_long_request_was_read_ahead(serve, stage):
    request = POST % (b"watch", 65_500) + b"x" * 65_500
    with serve().client() as client:
        client.send(GET % b"behind" + request[:65_000]).send(request[65_000:]).answer()
        assert stage.told.get(timeout=5) == "watching"
    assert stage.told.get(timeout=5) == "http.disconnect"


@pytest.mark.parametrize("framing", [b"Content-Length: 66000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n101d0\r\n"])
def test_it_sees_a_client_leave_whose_body_was_more_than_waits_unread(serve, stage, framing):
    with serve().client() as client:
        client.send(b"POST /late HTTP/1.1\r\nHost: a\r\n" + framing + b"x" * 65_000)
        assert stage.told.get(timeout=5) == "begun"
        client.send(b"x" * 1_000 + (b"\r\n0\r\n\r\n" if b"chunked" in framing else b""))
        assert stage.told.get(timeout=5) == "watching"
    assert stage.told.get(timeout=5) == "http.disconnect"


@pytest.mark.parametrize("sent", [GET % b"unread" + GET % b"ok" * 3_000, POST % (b"unread", 90_000) + b"x" * 80_000])
def test_it_sees_a_client_leave_of_whom_no_more_is_read(serve, stage, sent):
    with serve().client() as client:
        client.send(sent)
        assert stage.told.get(timeout=5) == "paused"
    assert stage.told.get(timeout=5) == "left"


def test_it_tells_the_application_that_the_client_left(serve, stage):
    with serve().client() as client:
        client.send(GET % b"watch")
        assert stage.told.get(timeout=5) == "watching"
    assert stage.told.get(timeout=5) == "http.disconnect"
    assert stage.told.get(timeout=5) is ClientGone


@pytest.mark.parametrize("data", [b"", b"GET /ok HTT"])
def test_it_gives_up_a_head_that_does_not_come(serve, data):
    with serve(header_timeout=0.1).client() as client:
        client.send(data)
        assert not data or client.answer().status == 408
        assert client.is_closed()


def test_it_does_not_wait_longer_for_a_head_that_trickles(serve):
    with serve(header_timeout=0.2).client() as client:
        client.socket.setblocking(True)
        stop = threading.Event()

        def trickle():
            while not stop.wait(0.02):
                client.socket.send(b"G")

        client.send(b"GET /")
        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            assert client.head()[0] == 408
        finally:
            stop.set()
            thread.join()


def test_it_closes_an_idle_connection(serve):
    with serve(keepalive_timeout=0.1).client() as client:
        assert client.send(GET % b"ok").answer().status == 200
        assert client.is_closed()


def test_it_closes_an_idle_connection_that_sends_empty_lines(serve):
    with serve(keepalive_timeout=0.2, header_timeout=60).client() as client:
        client.send(GET % b"ok").answer()
        client.send(b"\r\n")
        assert client.is_closed()


def test_it_gives_up_a_body_that_stops(serve, stage):
    with serve(body_idle_timeout=0.1).client() as client:
        assert client.send(POST % (b"ok", 10) + b"abc").answer().status == 408
        assert client.is_closed()
    assert stage.told.get(timeout=5) == "http.disconnect"


def test_it_blames_no_client_that_waits_for_the_application(serve, stage):
    server = serve(body_idle_timeout=0.1)
    size = 8 << 20
    with server.client() as client, server.client() as slow:
        client.send(POST % (b"upload", size))
        uploading = threading.Thread(target=client.socket.sendall, args=(b"x" * size,))
        uploading.start()
        assert stage.told.get(timeout=5) == "waiting"
        assert slow.send(POST % (b"ok", 10)).answer().status == 408  # time passes
        stage.released.set()
        assert client.answer().body == b"%d" % size
        uploading.join()


def test_it_gives_up_a_client_that_does_not_read(serve, stage):
    with serve(write_timeout=0.2).client(receive_buffer=4096) as client:
        client.send(GET % b"flood")
        assert stage.told.get(timeout=5) > 0
        with pytest.raises(ConnectionResetError):
            client.file.read()


def test_it_keeps_a_client_that_reads_slowly(serve, stage):
    with serve(write_timeout=1).client(receive_buffer=4096) as client:
        client.send(GET % b"flood").head()
        for _ in range(200):
            assert len(client.chunk()) == 16_384
        assert stage.told.empty()


@pytest.mark.parametrize("size", [100, 900_000])
def test_it_lets_a_client_read_the_answer_to_a_refused_upload(serve, size):
    with serve().client() as client:
        client.send(POST % (b"early", size))
        client.send(b"x" * size)
        assert client.answer().status == 401


def test_it_keeps_the_connection_after_a_small_refused_body(serve):
    with serve().client() as client:
        client.send(POST % (b"early", 100))
        assert client.answer().status == 401
        client.send(b"x" * 100 + GET % b"ok")
        assert client.answer().status == 200


def test_it_serves_on_after_a_body_that_nobody_read(serve, stage):
    with serve().client() as client:
        client.send(POST % (b"hold", 80_000) + b"x" * 80_000)
        stage.released.set()
        assert client.answer().body == b"held"
        assert client.send(GET % b"ok").answer().status == 200


def test_it_closes_after_a_large_refused_upload(serve):
    with serve().client() as client:
        client.send(POST % (b"early", 1 << 30))
        answer = client.answer()
        assert (answer.status, answer.headers["connection"]) == (401, "close")
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            client.send(b"x" * (64 << 20))


def test_it_stops_waiting_for_a_refused_body(serve):
    with serve(linger_timeout=0.1).client() as client:
        client.send(POST % (b"early", 100)).answer()
        assert client.is_closed()


def test_it_asks_for_an_expected_body_when_the_application_reads(serve):
    with serve().client() as client:
        client.send(b"POST /ok HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert client.head() == (100, {})
        client.send(b"abc")
        assert client.answer().body == b"3"


def test_it_does_not_ask_for_a_body_that_is_refused(serve):
    with serve().client() as client:
        client.send(b"POST /early HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        answer = client.answer()
        assert (answer.status, answer.headers["connection"]) == (401, "close")


def test_it_cuts_an_answer_without_its_final_chunk(serve):
    with serve().client() as client:
        client.send(GET % b"cut").head()
        assert client.chunk() == b"part"
        assert client.is_closed()


@pytest.mark.parametrize("path", [b"fail", b"silent", b"inject"])
def test_it_answers_500_when_the_application_fails(serve, path):
    answer = serve().ask(GET % path)
    assert answer.status == 500
    assert json.loads(answer.body)["error"]["code"] == "internal_error"
    assert b"secret" not in answer.body
    assert "set-cookie" not in answer.headers


def test_it_sends_no_more_than_the_declared_length(serve):
    with serve().client() as client:
        client.send(GET % b"overlong").head()
        assert client.file.read() == b""


def test_it_sends_no_body_to_a_head_request(serve):
    with serve().client() as client:
        client.send(b"HEAD /ok HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.head()[1]["content-length"] == "1"
        assert client.send(GET % b"ok").answer().status == 200


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (b"HEAD /ok HTTP/1.1\r\n\r\n", 400),
        (b"HEAD /ok HTTP/1.1\nHost: a\n\n", 400),
        (b"HEAD /ok HTTP/1.1\r\n", 408),
        (b"HEAD /ok HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400),
        (b"HEAD /fail HTTP/1.1\r\nHost: a\r\n\r\n", 500),
        (GET % b"ok" + b"HEAD /ok HTTP/1.1\r\n\r\n", 400),
    ],
)
def test_it_sends_no_body_to_a_head_request_that_it_refuses(serve, asked, status):
    with serve(header_timeout=0.1).client() as client:
        client.send(asked)
        if asked.startswith(b"GET"):
            assert client.answer().status == 200
        found, headers = client.head()
        assert (found, int(headers["content-length"]) > 0, client.file.read()) == (status, True, b"")


def test_it_refuses_more_connections_than_its_cap_and_recovers(serve):
    server = serve(connections=8)
    clients = [server.client() for _ in range(8)]
    with server.client() as client:
        answer = client.answer()
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"
    assert clients[0].send(GET % b"ok").answer().status == 200
    for client in clients:
        client.close()
    assert any(is_served(server.port) for _ in range(1000))


def test_it_resets_connections_far_above_its_cap(serve):
    server = serve(connections=9)
    clients = [server.client() for _ in range(11)]
    with contextlib.suppress(ConnectionResetError), server.client() as client:  # the reset may overtake the connect
        assert client.is_closed()
    for client in clients:
        client.close()


def test_it_needs_no_collector_to_forget_a_connection(serve):
    server = serve()
    gc.disable()
    try:
        with server.client() as client:
            assert client.send(GET % b"ok").answer().status == 200
            known = [weakref.ref(connection) for connection in server.server.server_state.connections]
        assert any(not any(ref() for ref in known) for _ in range(1000) if server.ask(GET % b"ok"))
    finally:
        gc.enable()


def test_it_needs_no_collector_to_forget_a_client_that_left_within_its_body(serve, stage):
    server = serve()
    gc.disable()
    try:
        with server.client() as client:
            client.send(POST % (b"watch", 9) + b"x")
            assert stage.told.get(timeout=5) == "watching"
            known = [weakref.ref(connection) for connection in server.server.server_state.connections]
        assert any(not any(ref() for ref in known) for _ in range(1000) if server.ask(GET % b"ok"))
    finally:
        gc.enable()


def test_it_leaves_descriptors_for_providers():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        assert connection_cap() == 96
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


SCARCE = """
import resource, sys
from proxy.tests.raw_http import RawServer
from proxy.tests.test_server_connection import Stage
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
server = RawServer(Stage(), connections=10_000)
print(server.port, flush=True)
sys.stdin.readline()
print(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]), flush=True)
"""


@pytest.fixture
def scarce():
    """A server in a process that may have 40 descriptors, and says its CPU seconds and ends when it is told to."""
    process = subprocess.Popen([sys.executable, "-c", SCARCE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        yield process
        process.kill()


def test_it_survives_the_descriptor_limit_without_spinning(scarce):
    port = int(scarce.stdout.readline())
    clients = [RawClient(port) for _ in range(80)]
    assert clients[-1].is_closed()
    for client in clients:
        client.close()
    assert any(is_served(port) for _ in range(1000))
    scarce.stdin.write("\n")
    scarce.stdin.flush()
    assert float(scarce.stdout.readline()) < 5


def is_served(port):
    try:
        with RawClient(port) as client:
            return client.send(GET % b"ok").head()[0] == 200
    except (ConnectionError, IndexError):
        return False


def test_it_finishes_a_request_and_closes_idle_connections_when_the_server_stops(serve, stage):
    server = serve(linger_timeout=1.5)  # a server of its own
    with server.client() as idle, server.client() as busy:
        idle.send(GET % b"ok").answer()
        busy.send(GET % b"hold")
        stage.told.get(timeout=5)
        server.server.should_exit = True
        assert idle.is_closed()
        stage.released.set()
        answer = busy.answer()
        assert (answer.body, answer.headers["connection"]) == (b"held", "close")
        assert busy.is_closed()


def test_it_keeps_no_connection_for_the_rest_of_a_refused_body_when_the_server_stops(serve):
    server = serve(linger_timeout=1.4)  # a server of its own
    with server.client() as idle, server.client() as refused:
        idle.send(GET % b"ok").answer()
        assert refused.send(POST % (b"early", 3)).answer().status == 401
        server.server.should_exit = True
        assert idle.is_closed()
        assert refused.send(b"abc").is_closed()
