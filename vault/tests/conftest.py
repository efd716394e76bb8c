"""Keys made at run time, keyrings, stored rows, and a provider on loopback."""

import base64
import secrets
import threading
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from accounts.models import User
from vault import store
from vault.models import ApiKey
from vault.secret import Secret


def make_key(prefix: str = "sk-") -> str:
    return prefix + secrets.token_hex(20)


def keyset_entry(key_id: int) -> str:
    return f"{key_id}:{base64.b64encode(secrets.token_bytes(32)).decode()}"


@pytest.fixture
def stored(owner: User) -> Callable[..., ApiKey]:
    """`stored(key)` puts a key of the owner's into the vault."""

    def add(key: str = "", provider: str = "openai", label: str | None = None, user: User = owner) -> ApiKey:
        return store.add(user.id, provider, label or secrets.token_hex(4), Secret(key or make_key()))

    return add


class FakeProvider:
    """A real HTTP server that answers every GET as told and remembers what it was sent."""

    def __init__(self) -> None:
        self.status, self.headers, self.body = 200, {"content-type": "application/json"}, b'{"data": []}'
        self.requests: list[tuple[str, list[tuple[str, str]]]] = []
        self.stall = threading.Event()
        self.stall.set()
        self.sent = 0
        self.cut = threading.Event()
        self.during: Callable[[], None] = lambda: None
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.status, self.body = status, body
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake.requests.append((self.path, self.headers.items()))
                fake.during()
                fake.stall.wait(10)
                try:
                    self.send_response(fake.status)
                    for name, value in fake.headers.items():
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(fake.body)))
                    self.end_headers()
                    for start in range(0, len(fake.body), 16384):
                        self.wfile.write(fake.body[start : start + 16384])
                        fake.sent = start + 16384
                except OSError:
                    fake.cut.set()

            def log_message(self, *args: object) -> None:
                pass

        return Handler


@pytest.fixture
def provider(settings) -> Generator[FakeProvider]:
    """In the place of all four providers."""
    fake = FakeProvider()
    thread = threading.Thread(target=fake.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    settings.AIPROXY_OPENAI_BASE_URL = fake.url + "/v1"
    settings.AIPROXY_ANTHROPIC_BASE_URL = settings.AIPROXY_GOOGLE_BASE_URL = fake.url
    settings.AIPROXY_ALIBABA_BASE_URL = fake.url + "/compatible-mode/v1"
    yield fake
    fake.stall.set()
    fake.server.shutdown()
    fake.server.server_close()
    thread.join()
