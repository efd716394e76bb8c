"""A running service with small time-outs whose surroundings are hostile: a scripted provider, and traps that count.

Owns what the hostile tests share; what is asked and promised is in them.
"""

import asyncio
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from proxy.tests.provider import Provider, Request, answer
from proxy.tests.raw_http import RawClient
from tests.service import Person, Service, until


class ScriptedProvider:
    """proxy/tests/provider.py on a loop and thread of its own, for services in other processes."""

    def __init__(self) -> None:
        self.inner = Provider()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self._run(self.inner.start())

    def _run(self, what) -> object:
        return asyncio.run_coroutine_threadsafe(what, self.loop).result(10)

    @property
    def requests(self) -> list[Request]:
        return self.inner.requests

    @property
    def base_url(self) -> str:
        return self.inner.base_url

    def play(self, script=None) -> None:
        """From now on every request is answered so, but for a test call: the stored key is good. What came before is
        forgotten."""
        good = answer()

        async def play(request: Request, writer: asyncio.StreamWriter) -> None:
            await (script if script and request.method != "GET" else good)(request, writer)

        self.inner.default = play
        self.inner.requests.clear()
        self.inner.keeps_bodies = True

    @property
    def connections(self) -> int:
        """How many the service has open to it now."""
        return sum(not task.done() for task in tuple(self.inner._tasks))

    def stop(self) -> None:
        self._run(self.inner.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


class Trap:
    """A listener that nobody may reach; `bitten` counts who did, without ever answering."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._met = 0

    @property
    def bitten(self) -> int:
        with suppress(BlockingIOError):
            while True:
                self._listener.accept()[0].close()
                self._met += 1
        return self._met

    def close(self) -> None:
        self._listener.close()


@dataclass
class Exposed:
    service: Service
    provider: ScriptedProvider
    trap: Trap
    person: Person
    other: Person
    temporary: Path
    worker: int  # its process

    @property
    def port(self) -> int:
        return self.service.port

    def client(self, **options: int) -> RawClient:
        return RawClient(self.port, **options)

    def memory(self, what: str = "VmRSS") -> int:
        """Of the worker, in bytes; VmHWM is the peak since `forget_peak`."""
        found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{self.worker}/status").read_text())
        assert found is not None
        return int(found[1]) << 10

    def forget_peak(self) -> int:
        """The resident memory from which the peak is counted now."""
        Path(f"/proc/{self.worker}/clear_refs").write_text("5")
        return self.memory()

    def descriptors(self) -> list[str]:
        """What the worker has open: sockets by kind only, files by name."""
        links = []
        for entry in Path(f"/proc/{self.worker}/fd").iterdir():
            with suppress(FileNotFoundError):
                links.append(os.readlink(entry).partition(":[")[0])
        return sorted(links)

    def spooled(self) -> list[str]:
        """Temporary files, also those that have no name any more."""
        deleted = [link for link in self.descriptors() if "(deleted)" in link and "/wgunicorn-" not in link]
        return [*(path.name for path in self.temporary.iterdir()), *deleted]

    def head(
        self, method: str = "POST", path: str = "/v1/chat/completions", *, key: str | None = None, **fields
    ) -> bytes:
        """A request head; `key=""` for none; fields by name, with underscores for hyphens."""
        key = self.person.key if key is None else key
        lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1"]
        lines += [f"authorization: Bearer {key}"] if key else []
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def post(self, body: bytes, *, key: str | None = None, **fields) -> bytes:
        return self.head(key=key, content_length=len(body), **fields) + body

    def is_well(self) -> bool:
        """Somebody else is served as always."""
        self.provider.play()
        return self.other.chat().status == 200


@contextmanager
def exposed_service(directory: Path) -> Iterator[Exposed]:
    provider, trap = ScriptedProvider(), Trap()
    home, temporary = directory / "home", directory / "tmp"
    home.mkdir()
    temporary.mkdir()
    (home / ".netrc").write_text("default login netrc password netrc\n")
    # Whoever listened to these would end in the trap.
    proxies = dict.fromkeys(["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"], f"http://127.0.0.1:{trap.port}")
    service = Service(
        directory,
        **proxies,
        **{name.lower(): value for name, value in proxies.items()},
        NO_PROXY="",
        HOME=str(home),
        TMPDIR=str(temporary),
        AIPROXY_OPENAI_BASE_URL=provider.base_url,
        AIPROXY_HEADER_TIMEOUT="2",
        AIPROXY_BODY_IDLE_TIMEOUT="2",
        AIPROXY_WRITE_TIMEOUT="3",
        AIPROXY_GRACE="2",
    )
    try:
        service.migrate()
        service.set_plan(rpm=None, tpm=None, max_parallel=None)
        service.start()
        person, other = (service.sign_up(f"{name}@example.com", "demo-" + name * 8) for name in ("person", "other"))
        (worker,) = until(service.worker_pids, "the worker")
        yield Exposed(service, provider, trap, person, other, temporary, worker)
    finally:
        if service.process is not None:
            service.stop()
        provider.stop()
        trap.close()
